package fleet_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestNew_namesTheFileAndLineOfABrokenMigration(t *testing.T) {
	host, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "host.db"))
	must(t, err)
	defer host.Close()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
	must(t, err)
	defer pool.Close(context.Background())
	nothing := func(context.Context, *sql.Tx) error { return nil }
	for text, want := range map[string]string{
		"CREATE TABLE x (n INTEGER);\n": "1: a statement stands before -- +goose Up",
		"":                              "1: there is no -- +goose Up",

		"-- +goose Up\nSELECT 1;\n\n-- two\nSELECT\n 2\n": "5: the statement that begins here has no " +
			"semicolon",
		"-- +goose Up\nSELECT 1\n-- +goose Down\nSELECT 2;\n": "2: the statement that begins here",
		"-- +goose Up\n-- +goose Down\nSELECT 2\n":            "3: the statement that begins here",
		"-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n": "2: this -- +goose StatementBegin has no",
		"-- +goose Up\nSELECT 1;\n-- +goose StatementEnd\n":   "3: -- +goose StatementEnd without",
		"-- +goose Up\n-- +goose Upp\n":                       "2: there is no annotation -- +goose UPP",
		"-- +goose Down\n":                                    "1: -- +goose Down must follow",
		"-- +goose Up\nSELECT 1;\n  -- +goose Down\n":         "3: -- +goose must stand at the beginning",

		"-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${';\nSELECT 'secret';": "3: -- +goose ENVSUB",
	} {
		files := fstest.MapFS{"00001_notes.sql": schema["00001_notes.sql"],
			"00002_x.sql": {Data: []byte(text)}}
		_, err := fleet.New(fleet.Config{Host: host, Pool: pool, Migrations: files})
		if err == nil || !strings.Contains(err.Error(), "Config.Migrations: 00002_x.sql:"+want) {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
	}
	for want, cfg := range map[string]fleet.Config{
		"00001_notes.sql and Go migration 1 have the same version": {Migrations: schema,
			GoMigrations: []*goose.Migration{goose.NewGoMigration(1, nil, nil)}},
		"Go migration 3 and Go migration 3 have the same version": {GoMigrations: []*goose.Migration{
			goose.NewGoMigration(3, nil, nil), goose.NewGoMigration(3, nil, nil)}},
		"a Go migration is nil": {GoMigrations: []*goose.Migration{nil}},
		"Go migration 4: give RunTx or RunDB": {GoMigrations: []*goose.Migration{goose.NewGoMigration(4,
			&goose.GoFunc{RunTx: nothing,
				RunDB: func(context.Context, *sql.DB) error { return nil }}, nil)}},
		"above 0": {GoMigrations: []*goose.Migration{goose.NewGoMigration(0, nil, nil)}},
		"00003_x.go: its migration isn't among Config.GoMigrations": {Migrations: fstest.MapFS{
			"00001_notes.sql": schema["00001_notes.sql"], "00003_x.go": {},
			"00004_x_test.go": {}, "help.go": {}}},
	} {
		cfg.Host, cfg.Pool = host, pool
		if _, err := fleet.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

func TestMigrate_namesTheLineOfAFailedStatement(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenants(t, 1)
		files := newest("CREATE TABLE extra3 (n INTEGER);\n\n-- this one\nNONSENSE")
		report, err := w.fleet(t, files).Migrate(t.Context(), fleet.MigrateOptions{})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		for r, err := range w.fleet(t, schema).Results(t.Context(), report.RunID, "") {
			must(t, err)
			if !strings.HasPrefix(r.Error, "00003_step.sql:5: ") {
				t.Errorf("error: %q", r.Error)
			}
		}
	})
}

func TestGoMigration_runsAmongTheFiles(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenants(t, 1)[0]
		var order []string
		inTx := func(what, statement string) *goose.GoFunc {
			return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				order = append(order, what)
				_, err := tx.ExecContext(ctx, statement)
				return err
			}}
		}
		onDB := func(what string, statements ...string) *goose.GoFunc {
			return &goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
				order = append(order, what)
				for _, statement := range statements {
					if _, err := db.ExecContext(ctx, statement); err != nil {
						return err
					}
				}
				return nil
			}}
		}
		files := newest("", "INSERT INTO extra3 VALUES (4)")
		delete(files, "00003_step.sql")
		files["00004_step.sql"] = step("INSERT INTO extra3 VALUES (4);", "DELETE FROM extra3 WHERE n = 4;")
		f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: files,
			GoMigrations: []*goose.Migration{
				goose.NewGoMigration(5, onDB("5", "INSERT INTO extra3 VALUES (5)",
					"INSERT INTO extra3 VALUES (6)"), onDB("-5", "DELETE FROM extra3 WHERE n > 4")),
				goose.NewGoMigration(3, inTx("3", extra(3)), inTx("-3", "DROP TABLE extra3")),
				goose.NewGoMigration(6, nil, nil),
			}})
		must(t, err)
		if f.Latest() != 6 {
			t.Errorf("the newest is %d", f.Latest())
		}
		_, err = f.Migrate(t.Context(), fleet.MigrateOptions{})
		must(t, err)
		w.at(t, acme, 6)
		_, err = f.Migrate(t.Context(), fleet.MigrateOptions{Down: true, Target: 2})
		must(t, err)
		w.at(t, acme, 2)
		if got := strings.Join(order, " "); got != "3 5 -5 -3" {
			t.Errorf("in the order %s", got)
		}
		fresh := w.provision(t, f, "fresh")
		w.at(t, fresh, 6)
		if got := w.ask(t, "fresh", "SELECT CAST(sum(n) AS TEXT) FROM extra3"); got != "15" {
			t.Errorf("the sum in a new tenant: %s", got)
		}
	})
}

func TestGoMigration_isRolledBackAfterAnErrorOrPanic(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenants(t, 1)[0]
		for _, ends := range []func() error{func() error { panic("a bug") }, func() error {
			return errors.New("a bug")
		}} {
			run := &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, extra(3))
				return errors.Join(err, ends())
			}}
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
				GoMigrations: []*goose.Migration{goose.NewGoMigration(3, run, nil)}})
			must(t, err)
			report, err := f.Migrate(t.Context(), fleet.MigrateOptions{})
			if !errors.Is(err, fleet.ErrIncomplete) {
				t.Errorf("Migrate = %v", err)
			}
			for r, err := range f.Results(t.Context(), report.RunID, "") {
				must(t, err)
				if !strings.Contains(r.Error, "a bug") || !strings.Contains(r.Error, "Go migration 3") {
					t.Errorf("error: %q", r.Error)
				}
			}
			w.at(t, acme, 2)
			w.exec(t, acme, "CREATE TABLE extra3 (n INTEGER)")
			w.exec(t, acme, "DROP TABLE extra3")
		}
	})
}

func TestMigrate_retriesAfterALockTimeout(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx, acme := t.Context(), w.tenants(t, 1)[0]
	conn, err := pgx.Connect(ctx, acme.DBURL.Reveal())
	must(t, err)
	defer conn.Close(context.Background())
	reader, err := conn.Begin(ctx)
	must(t, err)
	_, err = reader.Exec(ctx, "SELECT FROM notes")
	must(t, err)
	tries, free := 0, 0
	migration := hooked("ALTER TABLE notes ADD COLUMN extra INTEGER", func() {
		if tries++; tries == free {
			must(t, reader.Rollback(ctx))
		}
	})
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema, GoMigrations: migration})
	must(t, err)
	opts := fleet.MigrateOptions{LockTimeout: 50 * time.Millisecond, LockRetries: 2}
	report, err := f.Migrate(ctx, opts)
	if !errors.Is(err, fleet.ErrIncomplete) || tries != 3 {
		t.Errorf("Migrate = %v after %d tries", err, tries)
	}
	for r, err := range f.Results(ctx, report.RunID, "") {
		must(t, err)
		if !strings.Contains(r.Error, "55P03") || !strings.Contains(r.Error, "tries: 3") {
			t.Errorf("error: %q", r.Error)
		}
	}
	w.at(t, acme, 2)
	tries, free = 0, 2
	_, err = f.Migrate(ctx, opts)
	must(t, err)
	w.at(t, acme, 3)
	if tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

func TestMigrate_endsTheWaitForALockWithTheContext(t *testing.T) {
	w := newWorld(t, "postgres")
	acme := w.tenants(t, 1)[0]
	conn, err := pgx.Connect(t.Context(), acme.DBURL.Reveal())
	must(t, err)
	defer conn.Close(context.Background())
	reader, err := conn.Begin(t.Context())
	must(t, err)
	_, err = reader.Exec(t.Context(), "SELECT FROM notes")
	must(t, err)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
		GoMigrations: hooked("ALTER TABLE notes ADD COLUMN extra INTEGER", interrupt)})
	must(t, err)
	report, err := f.Migrate(ctx, fleet.MigrateOptions{LockTimeout: 500 * time.Millisecond,
		LockRetries: 1_000_000})
	if !errors.Is(err, context.Canceled) || report.Pending != 1 {
		t.Errorf("Migrate = %v, %s", err, counts(report))
	}
}

func TestMigrate_setsTheLockTimeoutInTransactionsOnly(t *testing.T) {
	w := newWorld(t, "postgres")
	for i, test := range []struct {
		opts fleet.MigrateOptions
		want string
	}{{fleet.MigrateOptions{}, "2s 0"}, {fleet.MigrateOptions{LockTimeout: 7 * time.Second}, "7s 0"},
		{fleet.MigrateOptions{LockTimeout: -1}, "0 0"}} {
		slug := fmt.Sprintf("t%d", i)
		w.provision(t, w.fleet(t, schema), slug)
		files := newest("CREATE TABLE seen AS SELECT current_setting('lock_timeout') AS inside")
		files["00004_bare.sql"] = bare("CREATE TABLE outside AS SELECT current_setting('lock_timeout') AS " +
			"bare;")
		test.opts.Only = []string{slug}
		_, err := w.fleet(t, files).Migrate(t.Context(), test.opts)
		must(t, err)
		if got := w.ask(t, slug, "SELECT inside || ' ' || bare FROM seen, outside"); got != test.want {
			t.Errorf("%+v: lock_timeout was %s; want %s", test.opts, got, test.want)
		}
		if got := w.ask(t, slug, "SHOW lock_timeout"); got != "0" {
			t.Errorf("lock_timeout is left as %s", got)
		}
	}
}

// A lock_timeout would leave an invalid index, so a migration without a transaction waits for its lock.
func TestMigrate_withoutATransactionWaitsForItsLock(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx, acme := t.Context(), w.tenants(t, 1)[0]
	conn, err := pgx.Connect(ctx, acme.DBURL.Reveal())
	must(t, err)
	defer conn.Close(context.Background())
	writer, err := conn.Begin(ctx)
	must(t, err)
	_, err = writer.Exec(ctx, "INSERT INTO notes (body) VALUES ('x')")
	must(t, err)
	files := newest()
	files["00003_index.sql"] = bare("CREATE INDEX CONCURRENTLY notes_body ON notes (body);")
	ended := make(chan error, 1)
	go func() {
		_, err := w.fleet(t, files).Migrate(ctx, fleet.MigrateOptions{LockTimeout: 10 * time.Millisecond})
		ended <- err
	}()
	watch, err := pgx.Connect(ctx, acme.DBURL.Reveal())
	must(t, err)
	defer watch.Close(context.Background())
	for waited := false; !waited; { // longer than the timeout
		must(t, watch.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE "+
			"INDEX%' AND wait_event_type = 'Lock' AND now() - query_start > interval '100 ms')").Scan(
			&waited))
	}
	must(t, writer.Rollback(ctx))
	must(t, <-ended)
	w.at(t, acme, 3)
	if got := w.ask(t, "t0",
		"SELECT indisvalid::text FROM pg_index WHERE indexrelid = 'notes_body'::regclass"); got != "true" {
		t.Errorf("the index is valid: %s", got)
	}
}

func TestMigrate_keepsTheLoweredVersionIfTheDatabaseCantBeAsked(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx, acme := t.Context(), w.tenants(t, 1)[0]
	admin := w.connect(t)
	allow := func(yes bool) {
		_, err := admin.Exec(context.Background(),
			fmt.Sprintf("ALTER DATABASE tenant_%s WITH ALLOW_CONNECTIONS %v", acme.ID, yes))
		must(t, err)
	}
	down := &goose.GoFunc{RunDB: func(ctx context.Context, _ *sql.DB) error {
		allow(false)
		_, err := admin.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
			"tenant_"+acme.ID)
		return errors.Join(err, errors.New("cut off"))
	}}
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
		GoMigrations: []*goose.Migration{goose.NewGoMigration(3, nil, down)}})
	must(t, err)
	_, err = f.Migrate(ctx, fleet.MigrateOptions{})
	must(t, err)
	if _, err := f.Migrate(ctx, fleet.MigrateOptions{Down: true,
		Target: 2}); !errors.Is(err, fleet.ErrIncomplete) {
		t.Errorf("Migrate = %v", err)
	}
	allow(true)
	if s := status(t, f, "t0"); s.Version != 2 || !s.Unknown {
		t.Errorf("status %+v", s)
	}
	// a pool that doesn't know that the database is closed
	w.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{})
	must(t, err)
	defer w.pool.Close(context.Background())
	f, err = fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
		GoMigrations: []*goose.Migration{goose.NewGoMigration(3, nil, down)}})
	must(t, err)
	_, err = f.Migrate(ctx, fleet.MigrateOptions{})
	must(t, err)
	w.at(t, acme, 3)
}
