package fleet_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/fleet"
)

func TestProvision_usesTheRoleOfTheTenantsURL(t *testing.T) {
	for _, withRole := range []bool{true, false} {
		t.Run(fmt.Sprint(withRole), func(t *testing.T) {
			w := newWorld(t, "postgres")
			ctx, spec := t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}
			begun, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: newest("NONSENSE"),
				SharedRole: !withRole})
			must(t, err)
			if _, err := begun.Provision(ctx, spec); err == nil {
				t.Fatal("a broken migration passed")
			}
			other, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool,
				Migrations: schema, SharedRole: withRole})
			must(t, err)
			acme, err := other.Provision(ctx, spec)
			must(t, err)
			if (w.roles(t) == 1) != withRole {
				t.Errorf("%d roles", w.roles(t))
			}
			must(t, other.Drop(ctx, acme.ID))
			if n := w.databases(t) + w.roles(t); n != 0 {
				t.Errorf("%d databases and roles are left", n)
			}
		})
	}
}

func TestDrop_refusesConnectionsEvenIfTheDropFails(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx, f := t.Context(), w.fleet(t, schema)
	acme, err := f.Provision(ctx, fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	must(t, err)
	cutOff, err := pgx.Connect(ctx, acme.DBURL.Reveal())
	must(t, err)
	defer cutOff.Close(context.Background())
	// A database with a subscription can't be dropped. Only a superuser may make one.
	there, err := url.Parse(w.url)
	must(t, err)
	there.Path = "/tenant_" + acme.ID
	super := func(statement string) {
		conn, err := pgx.Connect(ctx, there.String())
		must(t, err)
		_, err = conn.Exec(ctx, statement)
		must(t, errors.Join(err, conn.Close(ctx)))
	}
	super("CREATE SUBSCRIPTION s CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = " +
		"NONE)")
	if err := f.Drop(ctx, acme.ID); err == nil {
		t.Fatal("it was dropped")
	}
	if _, err := cutOff.Exec(ctx, "INSERT INTO notes (body) VALUES ('x')"); err == nil {
		t.Error("it writes on")
	}
	conn := w.connect(t)
	_, err = conn.Exec(ctx, "ALTER DATABASE tenant_"+acme.ID+" WITH ALLOW_CONNECTIONS true")
	must(t, err)
	super("DROP SUBSCRIPTION s")
	must(t, f.Drop(ctx, acme.ID))
}

func TestProvision_doesNotReplaceAnotherProcessesFile(t *testing.T) {
	w := newWorld(t, "sqlite")
	made := false
	anotherProcess := func() { // it acts while this process makes its template
		tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
		if err != nil || made {
			return
		}
		made = true
		db, err := sql.Open("sqlite", filepath.Join(w.dir, tenant.ID+".db"))
		must(t, err)
		_, err = db.ExecContext(t.Context(), "CREATE TABLE precious (body TEXT)")
		must(t, errors.Join(err, db.Close()))
	}
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
		GoMigrations: hooked(extra(3), anotherProcess)})
	must(t, err)
	acme := w.provision(t, f, "acme")
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	for _, table := range []string{"precious", "notes"} {
		if _, err := lease.DB().ExecContext(t.Context(), "INSERT INTO "+table+
			" (body) VALUES ('x')"); err != nil {
			t.Errorf("%s: %v", table, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "*.new")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestMigrate_doesNotApplyAnotherProcessesMigrationTwice(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		acme := w.tenants(t, 1)[0]
		lease, err := w.pool.Lease(acme)
		must(t, err)
		defer lease.Release()
		_, err = lease.DB().ExecContext(ctx, "INSERT INTO notes (body) VALUES ('x')")
		must(t, err)
		driver, source := "pgx", acme.DBURL.Reveal()
		if file, is := strings.CutPrefix(source, "sqlite:"); is {
			driver, source = "sqlite", filepath.Join(w.dir, file)+"?_pragma=busy_timeout(5000)"
		}
		other, err := sql.Open(driver, source)
		must(t, err)
		defer other.Close()
		meanwhile := ""
		hook := &goose.GoFunc{RunDB: func(ctx context.Context, _ *sql.DB) error {
			if meanwhile == "" {
				return nil
			}
			_, err := other.ExecContext(ctx, meanwhile)
			return err
		}}
		files := newest("", "UPDATE notes SET body = 'up'")
		delete(files, "00003_step.sql")
		files["00004_step.sql"] = step("UPDATE notes SET body = 'up';", "UPDATE notes SET body = 'down';")
		f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: files,
			GoMigrations: []*goose.Migration{goose.NewGoMigration(3, hook, nil),
				goose.NewGoMigration(5, nil, hook)}})
		must(t, err)
		for _, step := range []struct {
			meanwhile string
			opts      fleet.MigrateOptions
			want      error
		}{
			{"INSERT INTO goose_db_version (version_id, is_applied) VALUES (4, true)",
				fleet.MigrateOptions{Target: 4}, fleet.ErrIncomplete},
			{"", fleet.MigrateOptions{}, nil},
			{"DELETE FROM goose_db_version WHERE version_id = 4",
				fleet.MigrateOptions{Target: 3, Down: true}, fleet.ErrIncomplete},
		} {
			meanwhile = step.meanwhile
			if _, err := f.Migrate(ctx, step.opts); !errors.Is(err, step.want) {
				t.Errorf("%+v: %v", step.opts, err)
			}
			var body string
			must(t, lease.DB().QueryRowContext(ctx, "SELECT body FROM notes").Scan(&body))
			if body != "x" {
				t.Errorf("%+v: the note says %q", step.opts, body)
			}
		}
	})
}

func TestFleet_memoryDoesNotGrowWithTheNumberOfTenants(t *testing.T) {
	if underRace {
		t.Skip("memory is measured without the race detector")
	}
	w := newWorld(t, "sqlite")
	ctx, f := t.Context(), w.fleet(t, schema)
	raw, err := sql.Open("sqlite", strings.TrimPrefix(w.url, "sqlite:")+"?_pragma=busy_timeout(5000)")
	must(t, err)
	defer raw.Close()
	set, err := w.host.SchemaSets.Record(ctx, []int64{1, 2})
	must(t, err)
	size := 0
	grow := func(by int) {
		_, err := raw.ExecContext(ctx, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "+
			"WHERE i < ?1) INSERT INTO core_tenants (name, db_url, schema_version, schema_set, slug) "+
			"SELECT 'x', 'sqlite:none.db', 2, ?2, 't' || ?1 || '-' || i FROM n", by, set)
		must(t, err)
	}
	for _, more := range []int{100, 20_000} {
		grow(more)
		size += more
		least := heap()
		var most uint64
		seen := 0
		for _, err := range f.Status(ctx) {
			must(t, err)
			if seen++; seen%5000 == 0 {
				most = max(most, heap())
			}
		}
		planned := 0
		for _, err := range f.Plan(ctx, fleet.MigrateOptions{Target: 1, Down: true}) {
			must(t, err)
			if planned++; planned%5000 == 0 {
				most = max(most, heap())
			}
		}
		report, err := f.Migrate(ctx, fleet.MigrateOptions{})
		must(t, err)
		most = max(most, heap())
		if seen != size || planned != size || report.AtTarget != size {
			t.Errorf("of %d tenants: %d, %d planned, %+v", size, seen, planned, report)
		}
		const page = 4 << 20 // pages of a thousand rows, and some more
		if most > least+page {
			t.Errorf("%d tenants take %d KiB", size, (most-least)>>10)
		}
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
