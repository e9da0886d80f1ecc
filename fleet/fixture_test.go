package fleet_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
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

// world is a host database, a pool and an owner on one engine.
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

// fleet makes a fleet with these migrations.
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

// connect connects to the host database's server.
func (w *world) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), w.url)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// templatePrefix returns the prefix of the names of the templates for a host database, and of their
// roles.
func (w *world) templatePrefix(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(w.url)
	must(t, err)
	product := sha256.Sum256([]byte(u.Path))
	return "tenantdb_template_" + hex.EncodeToString(product[:4])
}

// templates returns the names of the finished templates for a host database.
func (w *world) templates(t *testing.T) []string {
	t.Helper()
	return w.named(t, "SELECT datname FROM pg_database WHERE starts_with(datname, $1) AND NOT datallowconn "+
		"ORDER BY oid")
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

// dropTemplates drops the templates and their roles.
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

// hooked is a third migration, in Go, that calls hook in its transaction before it runs a statement.
func hooked(statement string, hook func()) []*goose.Migration {
	return []*goose.Migration{goose.NewGoMigration(3,
		&goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			hook()
			_, err := tx.ExecContext(ctx, statement)
			return err
		}}, nil)}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// status returns a tenant's status.
func status(t *testing.T, f *fleet.Fleet, slug string) (status fleet.TenantStatus) {
	t.Helper()
	for s, err := range f.Status(t.Context(), slug) {
		must(t, err)
		status = s
	}
	return status
}

// planned returns the slugs of a plan.
func planned(t *testing.T, f *fleet.Fleet, opts fleet.MigrateOptions) string {
	t.Helper()
	var slugs []string
	for r, err := range f.Plan(t.Context(), opts) {
		must(t, err)
		slugs = append(slugs, r.Slug)
	}
	return strings.Join(slugs, " ")
}

// newest returns schema with further migrations, all of which can be undone.
func newest(more ...string) fstest.MapFS {
	all := fstest.MapFS{"00001_notes.sql": schema["00001_notes.sql"],
		"00002_more.sql": schema["00002_more.sql"]}
	for i, up := range more {
		all[fmt.Sprintf("%05d_step.sql", i+3)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + up +
			";\n-- +goose Down\nDROP TABLE extra" + fmt.Sprint(i+3) + ";\n")}
	}
	return all
}

// extra returns a statement that creates a table.
func extra(version int) string { return fmt.Sprintf("CREATE TABLE extra%d (n INTEGER)", version) }

// tenants provisions tenants with the two migrations of schema, ordered by id.
func (w *world) tenants(t *testing.T, n int) []*hostdb.TenantCatalog {
	t.Helper()
	f := w.fleet(t, schema)
	var all []*hostdb.TenantCatalog
	for i := range n {
		all = append(all, w.provision(t, f, fmt.Sprintf("t%d", i)))
	}
	return all
}

// exec runs a statement in a tenant's database.
func (w *world) exec(t *testing.T, tenant *hostdb.TenantCatalog, statement string) {
	t.Helper()
	lease, err := w.pool.Lease(tenant)
	must(t, err)
	defer lease.Release()
	_, err = lease.DB().ExecContext(t.Context(), statement)
	must(t, err)
}

// versions returns a tenant's version in the catalog and in goose's table.
func (w *world) versions(t *testing.T, tenant *hostdb.TenantCatalog) (catalog, database int64) {
	t.Helper()
	row, err := w.host.Tenants.Get(t.Context(), tenant.ID)
	must(t, err)
	lease, err := w.pool.Lease(row)
	must(t, err)
	defer lease.Release()
	must(t, lease.DB().QueryRowContext(t.Context(),
		"SELECT max(version_id) FROM goose_db_version").Scan(&database))
	return row.SchemaVersion, database
}

// at checks a tenant's version in the catalog and in the database.
func (w *world) at(t *testing.T, tenant *hostdb.TenantCatalog, want int64) {
	t.Helper()
	if catalog, database := w.versions(t, tenant); catalog != want || database != want {
		t.Errorf("%s is at %d by the catalog and at %d in truth; want %d", tenant.Slug,
			catalog, database, want)
	}
}

// counts returns the numbers of a report.
func counts(r fleet.Report) string {
	return fmt.Sprintf("%s: %d at target, %d done, %d failed, %d skipped, %d pending", r.Status, r.AtTarget,
		r.Done, r.Failed, r.Skipped, r.Pending)
}

func wantCounts(t *testing.T, r fleet.Report, want string) {
	t.Helper()
	if got := counts(r); got != want {
		t.Errorf("report: %s; want %s", got, want)
	}
}

// provision provisions a tenant that is dropped when the test ends.
func (w *world) provision(t *testing.T, f *fleet.Fleet, slug string) *hostdb.TenantCatalog {
	t.Helper()
	tenant, err := f.Provision(t.Context(), fleet.Spec{Slug: slug, OwnerID: w.owner.ID})
	must(t, err)
	t.Cleanup(func() { must(t, f.Drop(context.Background(), tenant.ID)) })
	return tenant
}

// audited counts the audit log's rows of an event and a tenant.
func (w *world) audited(t *testing.T, tenant *hostdb.TenantCatalog, event string) int {
	t.Helper()
	logs, err := w.host.AuditLogs.ListForTarget(t.Context(), tenant.ID, hostdb.Where("event_type", event))
	must(t, err)
	return len(logs)
}

// step returns a migration's file.
func step(up, down string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("-- +goose Up\n" + up + "\n-- +goose Down\n" + down + "\n")}
}

// bare returns a migration's file without a transaction.
func bare(up string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("-- +goose NO TRANSACTION\n-- +goose Up\n" + up + "\n")}
}

// ask runs a query for one string in a tenant's database.
func (w *world) ask(t *testing.T, slug, query string) (answer string) {
	t.Helper()
	tenant, err := w.host.Tenants.BySlug(t.Context(), slug)
	must(t, err)
	lease, err := w.pool.Lease(tenant)
	must(t, err)
	defer lease.Release()
	must(t, lease.DB().QueryRowContext(t.Context(), query).Scan(&answer))
	return answer
}

// ordinary creates a login role with these rights that isn't a superuser, and returns the server's URL with
// it. change executes statements with the role's name in place of %s.
func (w *world) ordinary(t *testing.T, rights string) (server hostdb.Secret, change func(statement string)) {
	t.Helper()
	conn, name := w.connect(t), "app_"+hostdb.NewID()
	change = func(statement string) {
		t.Helper()
		_, err := conn.Exec(context.Background(), fmt.Sprintf(statement, name))
		must(t, err)
	}
	change("CREATE ROLE %s LOGIN PASSWORD 's3cret' NOSUPERUSER " + rights)
	t.Cleanup(func() {
		w.dropTemplates(t) // the role owns them
		change("DROP ROLE %s")
	})
	u, err := url.Parse(w.url)
	must(t, err)
	u.User = url.UserPassword(name, "s3cret")
	return hostdb.Secret(u.String()), change
}

// version returns the server's major version.
func (w *world) version(t *testing.T) (major int) {
	t.Helper()
	must(t, w.connect(t).QueryRow(t.Context(),
		"SELECT current_setting('server_version_num')::int / 10000").Scan(&major))
	return major
}
