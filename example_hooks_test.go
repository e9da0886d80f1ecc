package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/tracelog"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// An enum and a composite type have another OID in each tenant's database. A hook registers them with each
// connection, so that pgx sends and reads them, and arrays of them, as Go values.
func ExamplePoolConfig_types() {
	server, stop, err := pgtest.Launch()
	check(err)
	defer stop()
	ctx := context.Background()
	acme, initech := productOn(server, "acme"), productOn(server, "initech")

	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{
		AfterConnect: func(ctx context.Context, tenantID string, conn *pgx.Conn) error {
			types, err := conn.LoadTypes(ctx, []string{"mood", "_mood", "price"})
			var refused *pgconn.PgError
			if errors.As(err, &refused) && refused.Code == "42704" {
				return nil // a new database, before its migrations
			}
			conn.TypeMap().RegisterTypes(types)
			return err
		},
	})
	check(err)
	defer pool.Close(ctx)
	type Price struct {
		Currency string
		Cents    int64
	}
	for _, tenant := range []*hostdb.TenantCatalog{acme, initech} {
		lease, err := pool.Lease(tenant)
		check(err)
		var moods []string
		var price Price
		check(lease.PG().QueryRow(ctx,
			"INSERT INTO visits (moods, paid) VALUES ($1, $2) RETURNING moods, paid",
			[]string{"happy", "sad"}, Price{"EUR", 1250}).Scan(&moods, &price))
		fmt.Println(tenant.Slug, moods, price.Currency, price.Cents)
		lease.Release()
	}
	// Output:
	// acme [happy sad] EUR 1250
	// initech [happy sad] EUR 1250
}

// A tracer is told of each statement, with the context of the call. This one is pgx's own for logs; otelpgx
// is used alike.
func ExamplePoolConfig_tracer() {
	server, stop, err := pgtest.Launch()
	check(err)
	defer stop()
	ctx := context.Background()
	acme := productOn(server, "acme")

	log := func(_ context.Context, _ tracelog.LogLevel, message string, data map[string]any) {
		if message == "Query" {
			fmt.Println(message, data["sql"], data["args"])
		}
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{
		ApplicationName: "notes", // pg_stat_activity shows notes/TENANT
		BeforeConnect: func(_ context.Context, _ string, config *pgx.ConnConfig) error {
			config.Tracer = &tracelog.TraceLog{
				Logger: tracelog.LoggerFunc(log), LogLevel: tracelog.LogLevelInfo,
			}
			return nil
		},
	})
	check(err)
	defer pool.Close(ctx)
	lease, err := pool.Lease(acme)
	check(err)
	defer lease.Release()
	_, err = lease.PG().Exec(ctx, "INSERT INTO visits (moods) VALUES ('{}')")
	check(err)
	var visits int
	check(lease.PG().QueryRow(ctx, "SELECT count(*) FROM visits WHERE $1", true).Scan(&visits))
	// Output:
	// Query INSERT INTO visits (moods) VALUES ('{}') []
	// Query SELECT count(*) FROM visits WHERE $1 [true]
}

// A password that changes is asked for before each connection, such as a token of a cloud's identity service.
// The db_urls have none.
func ExamplePoolConfig_rotatingPassword() {
	server, stop, err := pgtest.Launch()
	check(err)
	defer stop()
	ctx := context.Background()
	acme := productOn(server, "acme")
	var vault atomic.Value // stands for a service that knows the password of the day
	rotate := func(password string) {
		runOn(server.URL("acme"), "ALTER ROLE notes PASSWORD '"+password+"'")
		vault.Store(password)
	}
	runOn(server.URL("acme"), "CREATE ROLE notes LOGIN; GRANT ALL ON visits TO notes")
	acme.DBURL = hostdb.Secret("postgres://notes@" + server.Address() + "/acme")

	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{
		BeforeConnect: func(ctx context.Context, tenantID string, config *pgx.ConnConfig) error {
			config.Password = vault.Load().(string)
			return nil
		},
	})
	check(err)
	defer pool.Close(ctx)
	for _, password := range []string{"of Monday", "of Tuesday"} {
		rotate(password)
		check(pool.Drain(ctx, acme.ID)) // so that the example opens a new connection
		lease, err := pool.Lease(acme)
		check(err)
		var user string
		check(lease.PG().QueryRow(ctx, "SELECT current_user").Scan(&user))
		fmt.Println(user, "signed in with the password", password)
		lease.Release()
	}
	// Output:
	// notes signed in with the password of Monday
	// notes signed in with the password of Tuesday
}

// productOn makes a tenant's database with the product's schema.
func productOn(server *pgtest.Server, slug string) *hostdb.TenantCatalog {
	runOn(server.URL("postgres"), "CREATE DATABASE "+slug)
	runOn(server.URL(slug), "CREATE TYPE mood AS ENUM ('happy', 'sad'); "+
		"CREATE TYPE price AS (currency text, cents bigint); CREATE TABLE visits (moods mood[], paid price)")
	return &hostdb.TenantCatalog{ID: hostdb.NewID(), Slug: slug, DBURL: hostdb.Secret(server.URL(slug))}
}

// runOn runs statements on a connection of its own.
func runOn(url, statements string) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	check(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statements)
	check(err)
}
