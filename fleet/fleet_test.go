package fleet_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(crashEnv); plan != "" {
		if err := crash(plan); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(pgtest.Run(m))
}

var schema = fstest.MapFS{
	"00001_notes.sql": {Data: []byte("-- +goose Up\nCREATE TABLE notes (body TEXT NOT NULL);\n")},
	"00002_more.sql":  {Data: []byte("-- +goose Up\nALTER TABLE notes ADD COLUMN author TEXT;\n")},
}

// world is a product on one engine.
type world struct {
	host  *hostdb.DB
	pool  *tenantdb.Pool
	dir   string // of SQLite files
	url   string // of the host database
	owner *hostdb.GlobalUser
}

func onBothEngines(t *testing.T, test func(t *testing.T, w *world)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) { test(t, newWorld(t, engine)) })
	}
}

func newWorld(t *testing.T, engine string) *world {
	t.Helper()
	w := &world{dir: filepath.Join(t.TempDir(), "tenants")}
	w.url = "sqlite:" + filepath.Join(t.TempDir(), "host.db")
	if engine == "postgres" {
		w.url = pgtest.Database(t)
		t.Cleanup(func() { w.dropTemplates(t) })
	}
	var err error
	w.host, err = hostdb.Open(t.Context(), w.url)
	must(t, err)
	t.Cleanup(func() { _ = w.host.Close() })
	w.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: w.dir})
	must(t, err)
	t.Cleanup(func() { must(t, w.pool.Close(context.Background())) })
	w.owner = &hostdb.GlobalUser{OAuthID: "ann", Email: "ann@example.com"}
	must(t, w.host.Users.Insert(t.Context(), w.owner))
	return w
}

// fleet makes a fleet with that schema.
func (w *world) fleet(t *testing.T, migrations fstest.MapFS) *fleet.Fleet {
	t.Helper()
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: migrations})
	must(t, err)
	return f
}

// databases counts the tenants' databases that exist.
func (w *world) databases(t *testing.T) int {
	t.Helper()
	if strings.HasPrefix(w.url, "sqlite:") {
		files, err := filepath.Glob(filepath.Join(w.dir, "*.db*"))
		must(t, err)
		n := 0
		for _, file := range files {
			if !strings.HasSuffix(file, "-wal") && !strings.HasSuffix(file, "-shm") {
				n++
			}
		}
		return n
	}
	return w.existing(t, "SELECT count(*) FROM pg_database WHERE datname = $1")
}

// roles counts the tenants' roles that exist.
func (w *world) roles(t *testing.T) int {
	t.Helper()
	if strings.HasPrefix(w.url, "sqlite:") {
		return 0
	}
	return w.existing(t, "SELECT count(*) FROM pg_roles WHERE rolname = $1")
}

// existing sums a count over the tenants of the catalog.
func (w *world) existing(t *testing.T, query string) int {
	t.Helper()
	conn := w.connect(t)
	tenants, err := w.host.Tenants.List(t.Context())
	must(t, err)
	n := 0
	for _, tenant := range tenants {
		var found int
		must(t, conn.QueryRow(t.Context(), query, "tenant_"+tenant.ID).Scan(&found))
		n += found
	}
	return n
}

// connect connects to the host database's server.
func (w *world) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), w.url)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// templatePrefix begins the names of the templates that fleets made beside a host database, and of their
// roles.
func (w *world) templatePrefix(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(w.url)
	must(t, err)
	product := sha256.Sum256([]byte(u.Path))
	return "tenantdb_template_" + hex.EncodeToString(product[:4])
}

// templates names the closed templates that fleets made beside a host database.
func (w *world) templates(t *testing.T) []string {
	t.Helper()
	return w.named(t, "SELECT datname FROM pg_database WHERE starts_with(datname, $1) AND NOT datallowconn ORDER BY oid")
}

// named returns the names with the templates' prefix that a query finds.
func (w *world) named(t *testing.T, query string) []string {
	t.Helper()
	rows, err := w.connect(t).Query(context.Background(), query, w.templatePrefix(t))
	must(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	return names
}

// dropTemplates removes them, and their roles.
func (w *world) dropTemplates(t *testing.T) {
	t.Helper()
	var statements []string
	for _, name := range w.named(t, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)") {
		statements = append(statements, "ALTER DATABASE "+name+" IS_TEMPLATE false", "DROP DATABASE "+name)
	}
	for _, name := range w.named(t, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)") {
		statements = append(statements, "DROP ROLE "+name)
	}
	conn := w.connect(t)
	for _, statement := range statements {
		_, err := conn.Exec(context.Background(), statement)
		must(t, err)
	}
}

func TestProvisionMakesAnOpenTenantAndDropRemovesIt(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		tenant, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", Name: "Acme Inc.", OwnerID: w.owner.ID})
		must(t, err)
		row, err := w.host.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if !row.Open() || row.Slug != "acme" || row.Name != "Acme Inc." || row.SchemaVersion != 2 || row.PlanTier != "free" {
			t.Errorf("row = %+v", row)
		}
		members, err := w.host.Memberships.List(t.Context(), hostdb.Where("tenant_id", tenant.ID))
		must(t, err)
		if len(members) != 1 || members[0].UserID != w.owner.ID || members[0].Role != hostdb.RoleOwner || !members[0].IsActive {
			t.Errorf("members = %+v", members)
		}
		lease, err := w.pool.Lease(row)
		must(t, err)
		_, err = lease.DB().ExecContext(t.Context(), "INSERT INTO notes (body, author) VALUES ('x', 'y')")
		must(t, err)
		lease.Release()
		if _, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); !errors.Is(err, hostdb.ErrConflict) {
			t.Errorf("a slug twice: %v", err)
		}
		must(t, f.Drop(t.Context(), tenant.ID))
		must(t, f.Drop(t.Context(), tenant.ID))
		row, err = w.host.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if row.Status != hostdb.TenantDropped || row.Slug != "" || w.databases(t) != 0 {
			t.Errorf("after drop: %+v, %d databases", row, w.databases(t))
		}
	})
}

func TestAFailedProvisionGoesOnWhereItStopped(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		broken := fstest.MapFS{"00001_notes.sql": schema["00001_notes.sql"], "00002_bad.sql": {Data: []byte("-- +goose Up\nNONSENSE;\n")}}
		if _, err := w.fleet(t, broken).Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil {
			t.Fatal("a broken migration passed")
		}
		row, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		if row.Open() {
			t.Fatal("a half-made tenant is open")
		}
		tenant, err := w.fleet(t, schema).Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
		must(t, err)
		if tenant.ID != row.ID || !tenant.Open() || w.databases(t) != 1 {
			t.Errorf("resumed as %+v with %d databases", tenant, w.databases(t))
		}
		must(t, w.fleet(t, schema).Drop(t.Context(), tenant.ID))
	})
}

func TestOneSlugHasOneOwnerHoweverManyAskTogether(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		eve := &hostdb.GlobalUser{OAuthID: "eve", Email: "eve@example.com"}
		must(t, w.host.Users.Insert(t.Context(), eve))
		type result struct {
			owner  string
			tenant *hostdb.TenantCatalog
			err    error
		}
		results := make(chan result)
		for i := range 8 {
			owner := []string{w.owner.ID, eve.ID}[i%2]
			go func() {
				tenant, err := f.Provision(context.Background(), fleet.Spec{Slug: "acme", OwnerID: owner})
				results <- result{owner, tenant, err}
			}()
		}
		winners := make(map[string]bool)
		for range 8 {
			r := <-results
			switch {
			case r.err == nil:
				winners[r.owner+" "+r.tenant.ID] = true
			case !errors.Is(r.err, hostdb.ErrConflict):
				t.Errorf("a loser got %v; want a conflict", r.err)
			}
		}
		tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		members, err := w.host.Memberships.List(t.Context(), hostdb.Where("tenant_id", tenant.ID))
		must(t, err)
		if len(winners) != 1 || len(members) != 1 || !tenant.Open() || !members[0].IsActive || !winners[members[0].UserID+" "+tenant.ID] || w.databases(t) != 1 {
			t.Errorf("winners %v, members %+v, %d databases", winners, members, w.databases(t))
		}
		must(t, f.Drop(t.Context(), tenant.ID))
	})
}

func TestAnotherOwnerCannotTakeOverAnUnfinishedTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		broken := fstest.MapFS{"00001_bad.sql": {Data: []byte("-- +goose Up\nNONSENSE;\n")}}
		if _, err := w.fleet(t, broken).Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil {
			t.Fatal("a broken migration passed")
		}
		eve := &hostdb.GlobalUser{OAuthID: "eve", Email: "eve@example.com"}
		must(t, w.host.Users.Insert(t.Context(), eve))
		if _, err := w.fleet(t, schema).Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: eve.ID}); !errors.Is(err, hostdb.ErrConflict) {
			t.Errorf("eve on ann's reservation: %v", err)
		}
		tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		must(t, w.fleet(t, schema).Drop(t.Context(), tenant.ID))
	})
}

// hooked is a third migration, in Go, that calls hook in its transaction before it runs a statement.
func hooked(statement string, hook func()) []*goose.Migration {
	return []*goose.Migration{goose.NewGoMigration(3, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		hook()
		_, err := tx.ExecContext(ctx, statement)
		return err
	}}, nil)}
}

func TestATenantClosedWhileItIsProvisionedStaysClosed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		for _, status := range []string{hostdb.TenantDropped, hostdb.TenantSuspended} {
			closeIt := func() {
				tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
				if err != nil {
					return // closed already
				}
				tenant.Status = status
				if status == hostdb.TenantDropped {
					tenant.Slug = ""
				}
				must(t, w.host.Tenants.Update(t.Context(), tenant))
			}
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema, NoTemplate: true,
				GoMigrations: hooked(extra(3), closeIt)})
			must(t, err)
			if _, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); !errors.Is(err, hostdb.ErrConflict) {
				t.Errorf("%s meanwhile: Provision = %v", status, err)
			}
			tenants, err := w.host.Tenants.List(t.Context(), hostdb.Where("status", status))
			must(t, err)
			if len(tenants) != 1 {
				t.Fatalf("%s: %d tenants have that status", status, len(tenants))
			}
			want := 0
			if status == hostdb.TenantSuspended {
				want = 1
			}
			if n := w.databases(t); n != want {
				t.Errorf("%s: %d databases", status, n)
			}
			must(t, f.Drop(t.Context(), tenants[0].ID))
		}
	})
}

func TestDropRefusesATenantWhoseDatabaseIsElsewhere(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		tenant := &hostdb.TenantCatalog{Slug: "moved", Name: "Moved", DBURL: "postgres://elsewhere/x", IsActive: true}
		must(t, w.host.Tenants.Insert(t.Context(), tenant))
		if err := f.Drop(t.Context(), tenant.ID); err == nil || !strings.Contains(err.Error(), "db_url") {
			t.Errorf("Drop = %v", err)
		}
		row, err := w.host.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if !row.Open() {
			t.Error("it was closed all the same")
		}
	})
}

func TestProvisionRefusesBadSpecsAndLeavesNothing(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		for field, spec := range map[string]fleet.Spec{
			"slug: ":     {Slug: `"; DROP DATABASE postgres; --`, OwnerID: w.owner.ID},
			"slug":       {Slug: strings.Repeat("0", 32), OwnerID: w.owner.ID},
			"OwnerID":    {Slug: "acme", OwnerID: hostdb.NewID()},
			"Spec.Owner": {Slug: "acme"},
		} {
			if _, err := f.Provision(t.Context(), spec); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%+v: %v", spec, err)
			}
		}
		tenants, err := w.host.Tenants.List(t.Context())
		must(t, err)
		if len(tenants) != 0 {
			t.Errorf("%d tenants were left", len(tenants))
		}
	})
}

func TestNewNamesTheFieldAndShowsNoPassword(t *testing.T) {
	host, err := hostdb.Open(t.Context(), "sqlite::memory:")
	must(t, err)
	defer host.Close()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
	must(t, err)
	defer pool.Close(t.Context())
	for field, cfg := range map[string]fleet.Config{
		"Host":   {Pool: pool},
		"Pool":   {Host: host},
		"Server": {Host: host, Pool: pool, Server: "postgres://user:s3cret@host:notaport/x"},
	} {
		if _, err := fleet.New(cfg); err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
