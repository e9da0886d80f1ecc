package main

import (
	"context"
	"database/sql"
	"fmt"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"golang.org/x/sync/errgroup"
)

var fleetScenario = Scenario{
	Name:  "fleet",
	Title: "Provisioning and migrating",
	About: `Provisioning one tenant at a time, beside CREATE DATABASE alone from the same template, and beside
that with five small transactions in the host database, which is on the same server. Migrating: ten
migrations on each database, four databases at once, beside goose driven by hand; then a run that finds
nothing to do. Targets: provisioning ≤ 1.1 × CREATE DATABASE and the commits; migrating ≤ 1.1 × by hand;
nothing to do on 1,000 tenants in < 1 s.`,
	Open: openFleet,
}

const (
	createAlone   = "CREATE DATABASE alone"
	createCommits = "CREATE DATABASE and 5 commits"
	gooseByHand   = "goose by hand"
	parallel      = 4
)

// fleetBench has what the rows of the scenario share.
type fleetBench struct {
	b          *Bench
	e          *estate
	host       *hostdb.DB
	raw        *sql.DB // the host database without hostdb
	fleet      *fleet.Fleet
	migrations fstest.MapFS
	owner      string
	template   string
	urls       []string // the databases to migrate
	slugs      []string
	made       int
}

func openFleet(b *Bench) (*Comparison, error) {
	most := max(b.scale.migrated, b.scale.databases[len(b.scale.databases)-1])
	f := &fleetBench{b: b, migrations: tenMigrations()}
	var err error
	if f.e, err = b.databases(most); err != nil {
		return nil, err
	}
	if f.host, f.raw, err = hostOn(b, onPostgres); err != nil {
		return nil, err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{})
	if err != nil {
		return nil, err
	}
	b.onClose(func() { _ = pool.Close(context.Background()) })
	if f.fleet, err = fleet.New(fleet.Config{Host: f.host, Pool: pool,
		Migrations: f.migrations}); err != nil {
		return nil, err
	}
	for i := range most {
		f.urls = append(f.urls, f.e.server.URL(databaseName(i)))
		f.slugs = append(f.slugs, slug(i))
	}
	if _, err := populate(b.ctx, f.host, 1, most, func(_ string, i int) string {
		return f.urls[i]
	}); err != nil {
		return nil, err
	}
	user, err := f.host.Users.ByOAuthID(b.ctx, subject(0))
	if err != nil {
		return nil, err
	}
	f.owner = user.ID
	if err := f.provision(); err != nil { // this makes the template
		return nil, err
	}
	if err := f.findTemplate(); err != nil {
		return nil, err
	}
	return f.comparison(), nil
}

// comparison returns the rows.
func (f *fleetBench) comparison() *Comparison {
	c := &Comparison{Bases: []string{createAlone, createCommits, gooseByHand}, Columns: []Column{
		{Name: "time", Format: nanoseconds, Ratio: true}}}
	each := func(do func() error) func() ([]float64, error) {
		return func() ([]float64, error) {
			began := time.Now()
			for range f.b.scale.created {
				if err := do(); err != nil {
					return nil, err
				}
			}
			return []float64{float64(time.Since(began)) / float64(f.b.scale.created)}, nil
		}
	}
	migrating := fmt.Sprintf("10 migrations × %d databases", f.b.scale.migrated)
	c.Rows = []Row{
		{"provision a tenant", createAlone, each(f.create)},
		{"provision a tenant", createCommits, each(f.createAndCommit)},
		{"provision a tenant", "fleet.Provision", each(f.provision)},
		{migrating, gooseByHand, f.migrateByHand},
		{migrating, "fleet.Migrate", f.migrate},
		{fmt.Sprintf("nothing to do on %d tenants", len(f.urls)), "fleet.Migrate", f.migrateNothing},
	}
	return c
}

// tenMigrations returns ten small goose migrations.
func tenMigrations() fstest.MapFS {
	files := fstest.MapFS{}
	for i := 1; i <= 10; i++ {
		text := fmt.Sprintf(
			"-- +goose Up\nCREATE TABLE t%d (id int PRIMARY KEY, name text NOT NULL);\nCREATE INDEX ON t%d "+
				"(name);\n-- +goose Down\nDROP TABLE t%d;\n", i, i, i)
		files[fmt.Sprintf("%05d_t%d.sql", i, i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

// findTemplate finds the template that the fleet has made.
func (f *fleetBench) findTemplate() error {
	return f.e.admin.QueryRow(f.b.ctx,
		"SELECT datname FROM pg_database WHERE datname LIKE 'tenantdb\\_template\\_%' AND NOT datallowconn",
	).Scan(&f.template)
}

// create creates a database from the fleet's template.
func (f *fleetBench) create() error {
	f.made++
	_, err := f.e.admin.Exec(f.b.ctx,
		fmt.Sprintf("CREATE DATABASE made_%06d%s", f.made, f.e.copyOf(pgx.Identifier{f.template}.Sanitize())))
	return err
}

// createAndCommit adds five commits to the host database.
func (f *fleetBench) createAndCommit() error {
	if err := f.create(); err != nil {
		return err
	}
	for range 5 {
		err := f.host.InTx(f.b.ctx, func(tx *hostdb.Tx) error {
			return tx.AuditLogs.Insert(f.b.ctx, &hostdb.HostAuditLog{EventType: "bench", TargetID: f.owner})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// provision provisions a tenant.
func (f *fleetBench) provision() error {
	f.made++
	_, err := f.fleet.Provision(f.b.ctx, fleet.Spec{Slug: fmt.Sprintf("made-%06d", f.made), OwnerID: f.owner})
	return err
}

// migrateByHand migrates the databases with goose alone.
func (f *fleetBench) migrateByHand() ([]float64, error) {
	if err := f.reset(); err != nil {
		return nil, err
	}
	began := time.Now()
	err := f.inParallel(func(ctx context.Context, db *sql.DB) error {
		provider, err := goose.NewProvider(goose.DialectPostgres, db, f.migrations)
		if err != nil {
			return err
		}
		done, err := provider.Up(ctx)
		if err == nil && len(done) != len(f.migrations) {
			err = fmt.Errorf("%d migrations were applied", len(done))
		}
		return err
	})
	return []float64{float64(time.Since(began))}, err
}

// migrate migrates them with the fleet.
func (f *fleetBench) migrate() ([]float64, error) {
	if err := f.reset(); err != nil {
		return nil, err
	}
	began := time.Now()
	report, err := f.fleet.Migrate(f.b.ctx, fleet.MigrateOptions{
		Only: f.slugs[:f.b.scale.migrated], Parallel: parallel})
	took := time.Since(began)
	if err == nil && report.Done != f.b.scale.migrated {
		err = fmt.Errorf("%d databases were migrated", report.Done)
	}
	return []float64{float64(took)}, err
}

// migrateNothing runs the fleet on tenants that have every migration.
func (f *fleetBench) migrateNothing() ([]float64, error) {
	var all []int64
	for version := range len(f.migrations) {
		all = append(all, int64(version+1))
	}
	set, err := f.host.SchemaSets.Record(f.b.ctx, all)
	if err != nil {
		return nil, err
	}
	if _, err := f.raw.ExecContext(f.b.ctx, "UPDATE core_tenants SET schema_version = $1, schema_set = $2",
		len(all), set); err != nil {
		return nil, err
	}
	began := time.Now()
	report, err := f.fleet.Migrate(f.b.ctx, fleet.MigrateOptions{Parallel: parallel})
	took := time.Since(began)
	if err == nil && (report.Done != 0 || report.AtTarget < len(f.urls)) {
		err = fmt.Errorf("%d databases were migrated, %d were current", report.Done, report.AtTarget)
	}
	return []float64{float64(took)}, err
}

// reset empties the databases to migrate, and records that in the catalog.
func (f *fleetBench) reset() error {
	if _, err := f.raw.ExecContext(f.b.ctx, "UPDATE core_tenants SET schema_version = NULL"); err != nil {
		return err
	}
	return f.inParallel(func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx,
			"DROP TABLE IF EXISTS goose_db_version, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10")
		return err
	})
}

// inParallel calls do for each of the databases to migrate, four at once, each with a handle of its own.
func (f *fleetBench) inParallel(do func(context.Context, *sql.DB) error) error {
	group, ctx := errgroup.WithContext(f.b.ctx)
	group.SetLimit(parallel)
	for _, address := range f.urls[:f.b.scale.migrated] {
		group.Go(func() error {
			db, err := sql.Open("pgx", address)
			if err != nil {
				return err
			}
			defer db.Close()
			return do(ctx, db)
		})
	}
	return group.Wait()
}
