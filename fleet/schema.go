package fleet

import (
	"cmp"
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

// schema is the tenants' migrations. The zero value has none.
type schema struct {
	migrations []migration // by version, ascending
	content    string      // a hash of the migrations, part of the template's name
}

// readSchema reads the migrations. Like goose it ignores files whose names don't begin with a version and
// "_".
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

// check sorts the migrations and returns the errors that goose would return.
func (s *schema) check(files fs.FS) error {
	if len(s.migrations) == 0 {
		return errors.New("there is no file such as 00001_name.sql at the root")
	}
	slices.SortStableFunc(s.migrations, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
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

// latest returns the newest migration's version, or 0 without migrations.
func (s schema) latest() int64 {
	if len(s.migrations) == 0 {
		return 0
	}
	return s.migrations[len(s.migrations)-1].version
}

// find returns the migration with a version, or nil.
func (s schema) find(version int64) *migration {
	i := slices.IndexFunc(s.migrations, func(m migration) bool { return m.version == version })
	if i < 0 {
		return nil
	}
	return &s.migrations[i]
}

// has reports whether there is a migration with a version.
func (s schema) has(version int64) bool { return s.find(version) != nil }

// missing returns the versions up to target that aren't among the applied ones.
func (s schema) missing(applied []int64, target int64) []int64 {
	var missing []int64
	for i := range s.migrations {
		if v := s.migrations[i].version; v <= target && !slices.Contains(applied, v) {
			missing = append(missing, v)
		}
	}
	return missing
}

// reached returns the highest applied version below which no migration is missing.
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

// dialectOf returns goose's name of the engine of a db_url.
func dialectOf(url hostdb.Secret) goose.Dialect {
	if _, ok := dburl.File(url.Reveal()); ok {
		return goose.DialectSQLite3
	}
	return goose.DialectPostgres
}

// plan is how one database gets to a version.
type plan struct {
	history
	known    bool // history is what the database has now
	dialect  goose.Dialect
	from, to int64   // the version before and after
	steps    []int64 // the versions to apply or to undo, in this order
	down     bool
	late     bool // one of the steps is older than the newest applied migration
}

// plan plans the migration of a database to a target. It asks one query of a database that was migrated
// before.
func (s schema) plan(ctx context.Context, db *sql.DB, dialect goose.Dialect, target int64,
	down bool) (plan, error) {
	past, err := historyOf(ctx, db, dialect)
	if err != nil {
		return plan{}, err
	}
	p := plan{history: past, known: true, dialect: dialect, down: down, from: s.reached(past.applied)}
	if down {
		return p.planDown(s, target)
	}
	p.steps = s.missing(p.applied, target)
	p.late = len(p.steps) > 0 && len(p.applied) > 0 && p.steps[0] < slices.Max(p.applied)
	p.to = s.reached(append(slices.Clone(p.applied), p.steps...))
	return p, nil
}

// planDown plans to undo what was applied above a target.
func (p plan) planDown(s schema, target int64) (plan, error) {
	var left []int64
	for _, v := range p.applied {
		switch {
		case v <= target:
			left = append(left, v)
		case !s.has(v):
			p.known = false // the catalog isn't changed
			return p, fmt.Errorf("migration %d was applied, but isn't among Config.Migrations: "+
				"use the newer program that has it", v)
		default:
			p.steps = append(p.steps, v)
		}
	}
	slices.Sort(p.steps)
	slices.Reverse(p.steps)
	p.to = s.reached(left)
	return p, nil
}

// refuseLate returns an error if a migration comes late and that is refused.
func (p *plan) refuseLate(refused bool) error {
	if !refused || !p.late {
		return nil
	}
	p.known = false // the catalog isn't changed
	return fmt.Errorf(
		"migration %d was never applied, and the database has %d: number new migrations upwards",
		p.steps[0], slices.Max(p.applied))
}

// errInterrupted ends a plan between two migrations.
var errInterrupted = errors.New("interrupted")

// apply applies a plan's migrations one by one and updates p.applied. When ctx ends, the running statement is
// cancelled. When startCtx ends, the running migration is finished and apply returns errInterrupted.
func (s schema) apply(ctx, startCtx context.Context, db *sql.DB, p *plan, locks lockRetry) error {
	if len(p.steps) > 0 && !p.exists {
		if err := retryBusy(ctx, func() error { return createVersions(ctx, db, p.dialect) }); err != nil {
			return err
		}
	}
	a := applier{db: db, sqlite: p.dialect == goose.DialectSQLite3, down: p.down, locks: locks}
	for _, v := range p.steps {
		if startCtx.Err() != nil {
			return errInterrupted
		}
		if err := a.apply(ctx, startCtx, s.find(v)); err != nil {
			return p.reread(ctx, db, err)
		}
		if p.down {
			p.applied = slices.DeleteFunc(p.applied, func(applied int64) bool { return applied == v })
		} else {
			p.applied = append(p.applied, v)
		}
	}
	return nil
}

// rereadTimeout bounds the queries that find out, after a failure, what was applied.
const rereadTimeout = 5 * time.Second

// reread reads the history again after a failure: if a connection breaks during a commit, the transaction may
// have been committed all the same. It returns the failure.
func (p *plan) reread(ctx context.Context, db *sql.DB, failure error) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadTimeout)
	defer cancel()
	past, err := historyOf(late, db, p.dialect)
	if p.known = err == nil; p.known {
		p.history = past
	}
	return failure
}

// migrateToLatest migrates a database to the newest version and returns the versions that it has then.
func (s schema) migrateToLatest(ctx context.Context, db *sql.DB, dialect goose.Dialect) ([]int64, error) {
	p, err := s.plan(ctx, db, dialect, s.latest(), false)
	if err != nil {
		return nil, err
	}
	err = s.apply(ctx, ctx, db, &p, lockRetry{})
	return p.applied, err
}
