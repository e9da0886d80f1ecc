package tenantdb_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// Inside [sql.Conn.Raw], pgx's own connection does what database/sql can't, such as COPY. Don't use it after
// Raw has returned.
func ExampleDB_raw() {
	s := openShop()
	defer s.close()
	server, stop, err := pgtest.Launch()
	check(err)
	defer stop()
	ctx := context.Background()
	initech := &hostdb.TenantCatalog{
		Slug: "initech", Name: "Initech", DBURL: hostdb.Secret(server.URL("postgres")), IsActive: true,
		Status: hostdb.TenantActive,
	}
	check(s.host.Tenants.Insert(ctx, initech))
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(ctx)
	ctx, leave, err := mw.Enter(ctx, initech.ID)
	check(err)
	defer leave()

	conn, err := tenantdb.DB(ctx).Conn(ctx)
	check(err)
	defer conn.Close()
	_, err = conn.ExecContext(ctx, "CREATE TABLE notes (body text)")
	check(err)
	check(conn.Raw(func(driverConn any) error {
		native := driverConn.(interface{ Conn() *pgx.Conn }).Conn()
		n, err := native.CopyFrom(ctx, pgx.Identifier{"notes"}, []string{"body"},
			pgx.CopyFromRows([][]any{{"one"}, {"two"}}))
		fmt.Println(n, "rows copied")
		return err
	}))
	// Output: 2 rows copied
}
