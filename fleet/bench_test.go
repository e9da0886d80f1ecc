package fleet_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// benchWorld makes a world for a benchmark.
func benchWorld(b *testing.B, engine string) *world {
	b.Helper()
	w := &world{dir: filepath.Join(b.TempDir(), "tenants")}
	w.url = "sqlite:" + filepath.Join(b.TempDir(), "host.db")
	if engine == "postgres" {
		w.url = pgtest.Database(b)
	}
	var err error
	w.host, err = hostdb.Open(b.Context(), w.url)
	must(b, err)
	b.Cleanup(func() { _ = w.host.Close() })
	w.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: w.dir})
	must(b, err)
	b.Cleanup(func() { _ = w.pool.Close(context.Background()) })
	w.owner = &hostdb.GlobalUser{OAuthID: "ann", Email: "ann@example.com"}
	must(b, w.host.Users.Insert(b.Context(), w.owner))
	return w
}

// benchFleet makes a fleet.
func (w *world) benchFleet(b *testing.B, migrations fstest.MapFS) *fleet.Fleet {
	b.Helper()
	return w.benchFleetOf(b, fleet.Config{Migrations: migrations})
}

// benchFleetOf makes a fleet from a configuration.
func (w *world) benchFleetOf(b *testing.B, cfg fleet.Config) *fleet.Fleet {
	b.Helper()
	cfg.Host, cfg.Pool = w.host, w.pool
	f, err := fleet.New(cfg)
	must(b, err)
	return f
}

// benchProvision provisions n tenants.
func (w *world) benchProvision(b *testing.B, f *fleet.Fleet, n int) []*hostdb.TenantCatalog {
	b.Helper()
	var all []*hostdb.TenantCatalog
	for i := range n {
		tenant, err := f.Provision(b.Context(), fleet.Spec{Slug: fmt.Sprintf("t%d-%s", i,
			hostdb.NewID()[20:]), OwnerID: w.owner.ID})
		must(b, err)
		all = append(all, tenant)
	}
	return all
}

// BenchmarkProvision compares provisioning on PostgreSQL with only a CREATE DATABASE from the same template,
// alternating: with a role per tenant, with a role but no template, and with one role for all. It reports
// the time in the host database too.
func BenchmarkProvision(b *testing.B) {
	w := benchWorld(b, "postgres")
	ways := []struct {
		name string
		*fleet.Fleet
		took time.Duration
	}{
		// the CREATE DATABASE copies its template
		{name: "shared", Fleet: w.benchFleetOf(b, fleet.Config{Migrations: schema, SharedRole: true})},
		{name: "roles", Fleet: w.benchFleet(b, schema)},
		{name: "roles-untemplated", Fleet: w.benchFleetOf(b,
			fleet.Config{Migrations: schema, NoTemplate: true})},
	}
	conn, err := pgx.Connect(b.Context(), w.url)
	must(b, err)
	defer conn.Close(context.Background())
	var template string
	var steps []func()
	var tenants []*hostdb.TenantCatalog
	for i := range ways {
		must(b, ways[i].Drop(b.Context(), w.benchProvision(b, ways[i].Fleet, 1)[0].ID))
		if i == 0 {
			must(b, conn.QueryRow(b.Context(), "SELECT datname FROM pg_database WHERE starts_with(datname, "+
				"'tenantdb_template_') ORDER BY oid DESC LIMIT 1").Scan(&template))
		}
		steps = append(steps, timed(&ways[i].took, func() {
			tenants = append(tenants, w.benchProvision(b, ways[i].Fleet, 1)...)
		}))
	}
	var bare, host time.Duration
	name := "tenantdb_bare_" + hostdb.NewID()
	steps = append(steps, timed(&bare, func() {
		_, err := conn.Exec(b.Context(), "CREATE DATABASE "+name+" TEMPLATE "+template+" STRATEGY wal_log")
		must(b, err)
	}), timed(&host, func() { w.hostPart(b) }))
	for turn := 0; b.Loop(); turn++ { // they take turns at being first
		for i := range steps {
			steps[(turn+i)%len(steps)]()
		}
		w.benchDrop(b, ways[0].Fleet, tenants)
		tenants = nil
		_, err = conn.Exec(b.Context(), "DROP DATABASE "+name)
		must(b, err)
	}
	n := float64(b.N)
	b.ReportMetric(bare.Seconds()*1000/n, "bare-ms")
	b.ReportMetric(host.Seconds()*1000/n, "host-ms")
	for _, way := range ways {
		b.ReportMetric(way.took.Seconds()*1000/n, way.name+"-ms")
		b.ReportMetric(way.took.Seconds()/(bare+host).Seconds(), way.name+"/(bare+host)")
	}
}

// timed adds the duration of do to sum.
func timed(sum *time.Duration, do func()) func() {
	return func() {
		began := time.Now()
		do()
		*sum += time.Since(began)
	}
}

// hostPart does what Provision does in the host database, without a tenant's database.
func (w *world) hostPart(b *testing.B) {
	b.Helper()
	ctx, id := b.Context(), hostdb.NewID()
	_, err := w.host.Users.Get(ctx, w.owner.ID)
	must(b, err)
	tenant := &hostdb.TenantCatalog{ID: id, Slug: "h-" + id, Name: "x", IsActive: true,
		Status: hostdb.TenantProvisioning, DBURL: "sqlite:" + hostdb.Secret(id) + ".db"}
	job := &hostdb.SystemJob{JobType: "bench", Payload: "{}", DedupeKey: id}
	must(b, w.host.InTx(ctx, func(tx *hostdb.Tx) error {
		must(b, tx.Tenants.Insert(ctx, tenant))
		must(b, tx.Memberships.Insert(ctx, &hostdb.Membership{UserID: w.owner.ID, TenantID: id,
			Role: hostdb.RoleOwner}))
		_, err := tx.Jobs.Enqueue(ctx, job)
		must(b, err)
		job, err = tx.Jobs.ClaimJob(ctx, job.ID, "bench", time.Minute)
		return err
	}))
	must(b, w.host.InTx(ctx, func(tx *hostdb.Tx) error {
		row, err := tx.Tenants.Lock(ctx, id)
		must(b, err)
		members, err := tx.Memberships.ListForTenant(ctx, id)
		must(b, err)
		members[0].IsActive = true
		must(b, tx.Memberships.Update(ctx, members[0]))
		row.Status, row.SchemaVersion = hostdb.TenantActive, 2
		must(b, tx.Tenants.Update(ctx, row))
		return tx.Jobs.Complete(ctx, job)
	}))
}

// BenchmarkMigrate compares 10 migrations of 300 databases with goose at the same parallelism,
// on the same databases, 50 at a time, alternating in order.
func BenchmarkMigrate(b *testing.B) {
	const tenants, slice, parallel = 300, 50, 4
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			w := benchWorld(b, engine)
			base := w.benchFleet(b, schema)
			ten := newest(extra(3), extra(4), extra(5), extra(6), extra(7), extra(8), extra(9),
				extra(10), extra(11), extra(12))
			all := w.benchProvision(b, base, tenants)
			var took [2]time.Duration
			ways := [2]func([]*hostdb.TenantCatalog){
				func(some []*hostdb.TenantCatalog) { gooseByHand(b, w, engine, some, ten, parallel) },
				func(some []*hostdb.TenantCatalog) { w.benchMigrate(b, ten, some, parallel) },
			}
			for b.Loop() {
				for i := 0; i < tenants; i += slice {
					some := all[i : i+slice]
					for turn := range ways {
						way := (turn + i/slice) % len(ways)
						began := time.Now()
						ways[way](some)
						took[way] += time.Since(began)
						w.benchReset(b, engine, some)
					}
				}
			}
			w.benchDrop(b, base, all)
			b.ReportMetric(took[0].Seconds()/float64(b.N), "goose-s")
			b.ReportMetric(took[1].Seconds()/float64(b.N), "ours-s")
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "ours/goose")
		})
	}
}

// benchMigrate migrates tenants with a fleet, and closes its connections as gooseByHand does.
func (w *world) benchMigrate(b *testing.B, migrations fstest.MapFS,
	some []*hostdb.TenantCatalog, parallel int) {
	b.Helper()
	var only []string
	for _, tenant := range some {
		only = append(only, tenant.ID)
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: w.dir})
	must(b, err)
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: pool, Migrations: migrations})
	must(b, err)
	report, err := f.Migrate(b.Context(), fleet.MigrateOptions{Only: only, Parallel: parallel})
	must(b, errors.Join(err, pool.Close(b.Context())))
	if report.Done != len(some) {
		b.Fatalf("report %+v", report)
	}
}

// benchReset undoes the ten migrations, without a pool.
func (w *world) benchReset(b *testing.B, engine string, some []*hostdb.TenantCatalog) {
	b.Helper()
	var undo strings.Builder
	undo.WriteString("DELETE FROM goose_db_version WHERE version_id > 2;")
	for v := 3; v <= 12; v++ {
		fmt.Fprintf(&undo, "DROP TABLE extra%d;", v)
	}
	for _, tenant := range some {
		db, _, err := w.openByHand(engine, tenant)
		must(b, err)
		_, err = db.ExecContext(b.Context(), undo.String())
		must(b, errors.Join(err, db.Close()))
		must(b, w.host.Tenants.Update(b.Context(), tenant)) // as it was provisioned
	}
}

func (w *world) benchDrop(b *testing.B, f *fleet.Fleet, all []*hostdb.TenantCatalog) {
	b.Helper()
	for _, tenant := range all {
		must(b, f.Drop(b.Context(), tenant.ID))
	}
}

// openByHand opens a tenant's database without a pool.
func (w *world) openByHand(engine string, tenant *hostdb.TenantCatalog) (*sql.DB, goose.Dialect, error) {
	if engine == "postgres" {
		db, err := sql.Open("pgx", tenant.DBURL.Reveal())
		return db, goose.DialectPostgres, err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, tenant.ID+".db")+
		"?mode=rw&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"+
		"&_pragma=foreign_keys(1)&_txlock=immediate")
	return db, goose.DialectSQLite3, err
}

// gooseByHand migrates like a program that uses goose alone.
func gooseByHand(b *testing.B, w *world, engine string, all []*hostdb.TenantCatalog,
	migrations fstest.MapFS, parallel int) {
	b.Helper()
	work := make(chan *hostdb.TenantCatalog)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for tenant := range work {
				db, dialect, err := w.openByHand(engine, tenant)
				if err != nil {
					b.Error(err)
					continue
				}
				provider, err := goose.NewProvider(dialect, db, migrations)
				if err == nil {
					_, err = provider.Up(b.Context())
				}
				if err = errors.Join(err, db.Close()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, tenant := range all {
		work <- tenant
	}
	close(work)
	workers.Wait()
}

// BenchmarkMigrateNothing measures a run over 1,000 tenants that are at the target.
func BenchmarkMigrateNothing(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			w := benchWorld(b, engine)
			set, err := w.host.SchemaSets.Record(b.Context(), []int64{1, 2})
			must(b, err)
			for i := range 1000 {
				must(b, w.host.Tenants.Insert(b.Context(), &hostdb.TenantCatalog{Slug: fmt.Sprintf("t%d", i),
					Name: "x", IsActive: true, SchemaVersion: 2,
					SchemaSet: set, DBURL: "postgres://nobody@127.0.0.1:1/none"}))
			}
			f := w.benchFleet(b, schema)
			for b.Loop() {
				report, err := f.Migrate(b.Context(), fleet.MigrateOptions{})
				must(b, err)
				if report.AtTarget != 1000 {
					b.Fatalf("report %+v", report)
				}
			}
		})
	}
}
