package fleet

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// schema is the tenants' migrations. Its zero value has none.
type schema struct {
	migrations []migration // ascending
	content    string      // a hash of them: a template is named by it
}

// readSchema reads the migrations. Files whose names don't begin with a version and "_" are left aside, as
// goose does.
func readSchema(files fs.FS, inGo []*goose.Migration) (schema, error) {
	if files == nil && len(inGo) == 0 {
		return schema{}, nil
	}
	var s schema
	content := sha256.New()
	if files != nil {
		names, err := fs.Glob(files, "*.sql")
		if err != nil {
			return schema{}, err
		}
		for _, name := range names {
			text, err := fs.ReadFile(files, name)
			if err != nil {
				return schema{}, err
			}
			fmt.Fprintf(content, "%q %q\n", name, text)
			version, err := goose.NumericComponent(name)
			if err != nil {
				continue
			}
			m, err := fromFile(version, name, string(text))
			if err != nil {
				return schema{}, err
			}
			s.migrations = append(s.migrations, m)
		}
	}
	for _, given := range inGo {
		m, err := fromGo(given)
		if err != nil {
			return schema{}, err
		}
		fmt.Fprintf(content, "go %d\n", m.version)
		s.migrations = append(s.migrations, m)
	}
	s.content = hex.EncodeToString(content.Sum(nil)[:8])
	return s, s.check(files)
}

// check orders the migrations, and refuses what goose would refuse.
func (s *schema) check(files fs.FS) error {
	if len(s.migrations) == 0 {
		return errors.New("there is no file such as 00001_name.sql at the root")
	}
	slices.SortStableFunc(s.migrations, func(a, b migration) int { return int(min(1, max(-1, a.version-b.version))) })
	for i := range s.migrations[1:] {
		if a, b := &s.migrations[i], &s.migrations[i+1]; a.version == b.version {
			return fmt.Errorf("%s and %s have the same version", a.name, b.name)
		}
	}
	if files == nil {
		return nil
	}
	sources, err := fs.Glob(files, "*.go")
	if err != nil {
		return err
	}
	for _, name := range sources {
		version, err := goose.NumericComponent(name)
		if err != nil || strings.HasSuffix(name, "_test.go") {
			continue
		}
		if m := s.find(version); m == nil || m.up.statements != nil {
			return fmt.Errorf("%s: its migration isn't among Config.GoMigrations", name)
		}
	}
	return nil
}

// latest is the newest migration's version, 0 without migrations.
func (s schema) latest() int64 {
	if len(s.migrations) == 0 {
		return 0
	}
	return s.migrations[len(s.migrations)-1].version
}

// find returns the migration of that version, nil where there is none.
func (s schema) find(version int64) *migration {
	for i := range s.migrations {
		if s.migrations[i].version == version {
			return &s.migrations[i]
		}
	}
	return nil
}

// has reports whether there is a migration of that version.
func (s schema) has(version int64) bool { return s.find(version) != nil }

// versions are all migrations'.
func (s schema) versions() []int64 {
	var all []int64
	for i := range s.migrations {
		all = append(all, s.migrations[i].version)
	}
	return all
}

// missing are the migrations up to a target that aren't among the applied ones.
func (s schema) missing(applied []int64, target int64) []int64 {
	var missing []int64
	for i := range s.migrations {
		if v := s.migrations[i].version; v <= target && !slices.Contains(applied, v) {
			missing = append(missing, v)
		}
	}
	return missing
}

// reached is the highest applied version below which nothing is missing.
func (s schema) reached(applied []int64) (version int64) {
	if len(applied) == 0 {
		return 0
	}
	missing := s.missing(applied, slices.Max(applied))
	for _, v := range applied {
		if v > version && (len(missing) == 0 || v < missing[0]) {
			version = v
		}
	}
	return version
}

// above counts the migrations between two versions.
func (s schema) above(version, target int64) int {
	n := 0
	for i := range s.migrations {
		if v := s.migrations[i].version; v > version && v <= target {
			n++
		}
	}
	return n
}

// dialectOf is goose's name of the engine behind a db_url.
func dialectOf(url hostdb.Secret) goose.Dialect {
	if _, ok := dburl.File(url.Reveal()); ok {
		return goose.DialectSQLite3
	}
	return goose.DialectPostgres
}

// route is the way of one database to a version.
type route struct {
	history
	known    bool // what history says is the database's last word
	dialect  goose.Dialect
	from, to int64   // the version that it has, and the one that it will have
	steps    []int64 // versions to apply, or to take back, one after the other
	down     bool
	late     bool // one of them is older than the newest that the database has
}

// route finds a database's way to a target, with one query where the database was migrated before.
func (s schema) route(ctx context.Context, db *sql.DB, dialect goose.Dialect, target int64, down bool) (route, error) {
	known, err := historyOf(ctx, db, dialect)
	if err != nil {
		return route{}, err
	}
	r := route{history: known, known: true, dialect: dialect, down: down, from: s.reached(known.applied)}
	if down {
		return r.back(s, target)
	}
	r.steps = s.missing(r.applied, target)
	r.late = len(r.steps) > 0 && len(r.applied) > 0 && r.steps[0] < slices.Max(r.applied)
	r.to = s.reached(append(slices.Clone(r.applied), r.steps...))
	return r, nil
}

// back plans to take back what was applied above a target.
func (r route) back(s schema, target int64) (route, error) {
	var left []int64
	for _, v := range r.applied {
		switch {
		case v <= target:
			left = append(left, v)
		case !s.has(v):
			r.known = false // the catalog stays as it is
			return r, fmt.Errorf("migration %d was applied and isn't among Config.Migrations: a newer program has to take it back", v)
		default:
			r.steps = append(r.steps, v)
		}
	}
	slices.Sort(r.steps)
	slices.Reverse(r.steps)
	r.to = s.reached(left)
	return r, nil
}

// refuse fails a way on which a migration comes late, where that is to be refused.
func (r *route) refuse(late bool) error {
	if !late || !r.late {
		return nil
	}
	r.known = false // the catalog stays as it is
	return fmt.Errorf("migration %d was never applied, and the database has %d: number new migrations upwards", r.steps[0], slices.Max(r.applied))
}

// errInterrupted: the work was asked to end.
var errInterrupted = errors.New("interrupted")

// walk takes a database along its route, a migration at a time, and keeps r.applied. When ctx ends, so does
// the statement that runs; when soft ends, the walk does after the migration that runs, with errInterrupted.
func (s schema) walk(ctx, soft context.Context, db *sql.DB, r *route, locks lockPatience) error {
	if len(r.steps) > 0 && !r.exists {
		if err := patiently(ctx, func() error { return createVersions(ctx, db, r.dialect) }); err != nil {
			return err
		}
	}
	a := applier{db: db, sqlite: r.dialect == goose.DialectSQLite3, down: r.down, locks: locks}
	for _, v := range r.steps {
		if soft.Err() != nil {
			return errInterrupted
		}
		if err := a.apply(ctx, soft, s.find(v)); err != nil {
			return r.reread(ctx, db, err)
		}
		if r.down {
			r.applied = slices.DeleteFunc(r.applied, func(applied int64) bool { return applied == v })
		} else {
			r.applied = append(r.applied, v)
		}
	}
	return nil
}

// rereadPatience is how long a database may take to say what was applied to it, after a failure.
const rereadPatience = 5 * time.Second

// reread asks what was applied after a failure: a connection that breaks at the wrong moment hides that a
// transaction was committed.
func (r *route) reread(ctx context.Context, db *sql.DB, failure error) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadPatience)
	defer cancel()
	known, err := historyOf(late, db, r.dialect)
	if r.known = err == nil; r.known {
		r.history = known
	}
	return failure
}

// bring brings a database to the newest version, and returns the versions that were applied to it.
func (s schema) bring(ctx context.Context, db *sql.DB, dialect goose.Dialect) ([]int64, error) {
	way, err := s.route(ctx, db, dialect, s.latest(), false)
	if err != nil {
		return nil, err
	}
	err = s.walk(ctx, ctx, db, &way, lockPatience{})
	return way.applied, err
}
