package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// schema is the tenants' migrations. Its zero value has none.
type schema struct {
	files    fs.FS
	versions []int64 // ascending
}

// readSchema lists the migrations. Files whose names don't begin with a version and "_" are left aside, as goose does.
func readSchema(files fs.FS) (schema, error) {
	if files == nil {
		return schema{}, nil
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return schema{}, err
	}
	s := schema{files: files}
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			continue
		}
		if slices.Contains(s.versions, version) {
			return schema{}, fmt.Errorf("two files have the version %d", version)
		}
		s.versions = append(s.versions, version)
	}
	if len(s.versions) == 0 {
		return schema{}, errors.New("there is no file such as 00001_name.sql at the root")
	}
	slices.Sort(s.versions)
	return s, nil
}

// latest is the newest migration's version, 0 without migrations.
func (s schema) latest() int64 {
	if len(s.versions) == 0 {
		return 0
	}
	return s.versions[len(s.versions)-1]
}

// has reports whether there is a migration of that version.
func (s schema) has(version int64) bool {
	_, found := slices.BinarySearch(s.versions, version)
	return found
}

// above counts the migrations between two versions.
func (s schema) above(version, target int64) int {
	n := 0
	for _, v := range s.versions {
		if v > version && v <= target {
			n++
		}
	}
	return n
}

// dialectOf is goose's name of the engine behind a db_url.
func dialectOf(url hostdb.Secret) goose.Dialect {
	if strings.HasPrefix(url.Reveal(), "sqlite:") {
		return goose.DialectSQLite3
	}
	return goose.DialectPostgres
}

// route is the way of one database to a version.
type route struct {
	from, to int64   // the version that it has, and the one that it will have
	steps    []int64 // versions to apply, or to take back, one after the other
	down     bool
	known    history
}

// history is what goose would ask a database before each migration, and has been read at once.
type history struct {
	database.Store
	applied []int64
	exists  bool // there is a table of versions
}

// TableExists implements database.StoreExtender.
func (h *history) TableExists(context.Context, database.DBTxConn) (bool, error) { return h.exists, nil }

// GetMigration implements database.Store.
func (h *history) GetMigration(_ context.Context, _ database.DBTxConn, version int64) (*database.GetMigrationResult, error) {
	if !slices.Contains(h.applied, version) {
		return nil, database.ErrVersionNotFound
	}
	return &database.GetMigrationResult{IsApplied: true}, nil
}

// errOvertaken: somebody whose lease is over, or who took this one over, did the same in the meantime.
var errOvertaken = errors.New("another process migrates this database")

// Insert implements database.Store. It is in the migration's transaction, which is undone where another one applied the same.
func (h *history) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	return once(db.ExecContext(ctx, "INSERT INTO "+versionTable+" (version_id, is_applied) SELECT CAST($1 AS BIGINT), true WHERE NOT EXISTS"+
		" (SELECT 1 FROM "+versionTable+" WHERE version_id = $1 AND is_applied)", req.Version))
}

// Delete implements database.Store, as Insert does.
func (h *history) Delete(ctx context.Context, db database.DBTxConn, version int64) error {
	return once(db.ExecContext(ctx, "DELETE FROM "+versionTable+" WHERE version_id = $1", version))
}

// once makes sure that a statement did something.
func once(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(errOvertaken, err)
	}
	return nil
}

// route finds a database's way to a target, with one query where the database was migrated before.
func (s schema) route(ctx context.Context, db *sql.DB, dialect goose.Dialect, target int64, down bool) (route, error) {
	known, err := historyOf(ctx, db, dialect)
	if err != nil {
		return route{}, err
	}
	r, applied := route{down: down, known: known}, slices.Clone(known.applied)
	if len(applied) > 0 {
		r.from = slices.Max(applied)
	}
	r.to = r.from
	if down {
		slices.Sort(applied)
		slices.Reverse(applied)
		return r.back(s, applied, target)
	}
	for _, v := range s.versions {
		if v > target || slices.Contains(applied, v) {
			continue
		}
		if v < r.from {
			return route{}, fmt.Errorf("migration %d was never applied, and the database is at %d: number new migrations upwards", v, r.from)
		}
		r.steps = append(r.steps, v)
		r.to = v
	}
	return r, nil
}

// back plans to take back what was applied above a target.
func (r route) back(s schema, applied []int64, target int64) (route, error) {
	for _, v := range applied {
		if r.to = v; v <= target {
			return r, nil
		}
		if !s.has(v) {
			return route{}, fmt.Errorf("migration %d was applied and isn't among Config.Migrations: a newer program has to take it back", v)
		}
		r.steps = append(r.steps, v)
	}
	r.to = 0
	return r, nil
}

// versionTable is where goose notes what it applied.
const versionTable = goose.DefaultTablename

// historyOf reads what was applied to a database. It writes nothing.
func historyOf(ctx context.Context, db *sql.DB, dialect goose.Dialect) (h history, err error) {
	if h.Store, err = database.NewStore(dialect, versionTable); err != nil {
		return h, err
	}
	err = patiently(ctx, func() error {
		h.applied, err = readVersions(ctx, db)
		return err
	})
	h.exists = err == nil
	if h.exists {
		return h, nil
	}
	exists := "SELECT count(*) FROM pg_class WHERE oid = to_regclass('" + versionTable + "')"
	if dialect == goose.DialectSQLite3 {
		exists = "SELECT count(*) FROM sqlite_schema WHERE name = '" + versionTable + "'"
	}
	var tables int
	if second := db.QueryRowContext(ctx, exists).Scan(&tables); second == nil && tables == 0 {
		return h, nil
	}
	return h, err
}

// readVersions reads goose's table.
func readVersions(ctx context.Context, db *sql.DB) ([]int64, error) {
	rows, err := db.QueryContext(ctx, "SELECT version_id FROM "+versionTable+" WHERE is_applied AND version_id > 0")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var versions []int64
	for rows.Next() {
		var version int64
		if err := rows.Scan(&version); err != nil {
			return nil, err
		}
		versions = append(versions, version)
	}
	return versions, rows.Err()
}

// walk takes a database along its route, a migration at a time, and returns the version that it has then. When ctx ends, so does the
// statement that runs; when soft ends, the walk does after the migration that runs, with errInterrupted.
func (s schema) walk(ctx, soft context.Context, db *sql.DB, r route) (int64, error) {
	if len(r.steps) == 0 {
		return r.from, nil
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db, s.files, goose.WithStore(&r.known), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return r.from, err
	}
	at := r.from
	for i, v := range r.steps {
		if soft.Err() != nil {
			return at, errInterrupted
		}
		var done *goose.MigrationResult
		err := patiently(ctx, func() error {
			done, err = provider.ApplyVersion(ctx, v, !r.down)
			return err
		})
		if err != nil {
			return at, explain(err)
		}
		switch {
		case !r.down:
			at = done.Source.Version
		case i+1 < len(r.steps):
			at = r.steps[i+1]
		default:
			at = r.to
		}
	}
	return at, nil
}

// bring brings a database to the newest version, and returns it.
func (s schema) bring(ctx context.Context, db *sql.DB, dialect goose.Dialect) (int64, error) {
	way, err := s.route(ctx, db, dialect, s.latest(), false)
	if err != nil {
		return 0, err
	}
	return s.walk(ctx, ctx, db, way)
}

// errInterrupted: the work was asked to end.
var errInterrupted = errors.New("interrupted")

// explain names the file of a migration that failed.
func explain(err error) error {
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		return fmt.Errorf("%s: %w", path.Base(partial.Failed.Source.Path), partial.Err)
	}
	return err
}

// busyPause is how long a migration waits before it asks for a connection again.
const busyPause = 50 * time.Millisecond

// patiently repeats what finds the pool's connections in use: a migration stands in line with requests.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !errors.Is(err, tenantdb.ErrBusy) {
			return err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return err
		}
	}
}
