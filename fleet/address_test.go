package fleet_test

import (
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// The parameter host holds a socket's directory, as in Cloud SQL's addresses:
// postgres://u@/db?host=/cloudsql/p:r:i.
func TestProvision_acceptsSocketsAndQueryParametersInServer(t *testing.T) {
	dir, err := os.MkdirTemp("", "p:r:i") // t.TempDir's path may be too long for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777)) // the server may be another user
	server, err := url.Parse(pgtest.Start(t, "unix_socket_directories="+dir).URL("postgres"))
	must(t, err)
	password, _ := server.User.Password()
	for form, address := range map[string]string{
		"socket": "postgres://" + server.User.String() + "@/postgres?host=" + dir + "&port=" + server.Port(),
		"query": "postgres://?dbname=postgres&user=" + server.User.Username() + "&password=" + password +
			"&host=localhost&port=" + server.Port(),
		"hosts": "postgres://" + server.User.String() + "@[::ffff:127.0.0.1]:" + server.Port() +
			",127.0.0.1:" + server.Port() + "/postgres",
	} {
		t.Run(form, func(t *testing.T) {
			w := newWorld(t, "sqlite")
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
				Server: hostdb.Secret(address)})
			must(t, err)
			acme, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
			must(t, err)
			lease, err := w.pool.Lease(acme)
			must(t, err)
			var role, database, at string
			must(t, lease.DB().QueryRowContext(t.Context(), "SELECT current_user, current_database(), "+
				"coalesce(host(inet_server_addr()), 'socket')").Scan(&role, &database, &at))
			lease.Release()
			if role != "tenant_"+acme.ID || database != role || (at == "socket") != (form == "socket") {
				t.Errorf("connected as %s to %s at %s", role, database, at)
			}
			if form == "query" && strings.Contains(acme.DBURL.Reveal(), password) {
				t.Errorf("the db_url holds the server's password: %s", acme.DBURL.Reveal())
			}
			found, err := f.Inventory(t.Context())
			must(t, err)
			if len(found.Missing)+len(found.Orphans) != 0 {
				t.Errorf("inventory: %+v", found)
			}
			must(t, f.Drop(t.Context(), acme.ID))
			conn, err := pgx.Connect(t.Context(), address)
			must(t, err)
			defer conn.Close(t.Context())
			var left int
			must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = $1",
				database).Scan(&left))
			if left != 0 {
				t.Error("the database is still there")
			}
		})
	}
}
