package fleet_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/fleet"
)

// family creates the tables of the tests: p and its children c, r, to which no table refers, and n with a
// child without ON DELETE CASCADE.
const family = `CREATE TABLE p (id INTEGER PRIMARY KEY);
CREATE TABLE c (p INTEGER REFERENCES p(id) ON DELETE CASCADE);
CREATE TABLE r (id INTEGER PRIMARY KEY);
CREATE TABLE n (id INTEGER PRIMARY KEY);
CREATE TABLE m (n INTEGER REFERENCES n(id));`

// rebuilt changes a table as SQLite's documentation says.
const rebuilt = `CREATE TABLE q (id INTEGER PRIMARY KEY);
INSERT INTO q SELECT id FROM p;
DROP TABLE p;
ALTER TABLE q RENAME TO p;
`

// population counts the rows of the tables.
const population = `SELECT (SELECT count(*) FROM p) || ' ' || (SELECT count(*) FROM c) || ' ' ||
	(SELECT count(*) FROM r) || ' ' || (SELECT count(*) FROM n) || ' ' || (SELECT count(*) FROM m)`

func TestMigrate_sqliteRebuildKeepsChildren(t *testing.T) {
	intoR := strings.NewReplacer(" p;", " r;", " p\n", " r\n", "FROM p", "FROM r").Replace(rebuilt)
	for name, test := range map[string]struct {
		file  *fstest.MapFile
		want  string // the numbers of rows of p, c, r, n and m
		fails string // a part of the error
	}{
		"with the pragma, on one line": {file: step("PRAGMA foreign_keys=OFF; "+strings.ReplaceAll(rebuilt,
			"\n", " "), ""), want: "1 3 1 1 1"},
		"with the pragma": {file: step("PRAGMA foreign_keys = false;\n"+rebuilt+
			"PRAGMA foreign_keys = ON;", ""), want: "1 3 1 1 1"},
		"with the pragma as a call": {file: step("/* now */ pragma main.foreign_keys(0);\n"+rebuilt,
			""), want: "1 3 1 1 1"},
		"without the pragma": {file: step(rebuilt, ""), want: "1 3 1 1 1"},
		"with quoted names": {file: step(strings.NewReplacer("TABLE p", `TABLE IF EXISTS main."p"`,
			"RENAME TO p", "RENAME TO [p]").Replace(rebuilt), ""),
			want: "1 3 1 1 1"},
		"without a transaction": {file: bare(rebuilt), want: "1 3 1 1 1"},
		"without a transaction, but for the file's": {file: bare("PRAGMA foreign_keys = OFF;\nBEGIN;\n" +
			rebuilt + "COMMIT;"), want: "1 3 1 1 1"},
		"whose children aren't deleted with it": {file: step(strings.NewReplacer(" p;", " n;", "FROM p",
			"FROM n").Replace(rebuilt), ""), want: "1 3 1 1 1"},
		"under the old name": {file: step("PRAGMA legacy_alter_table = ON; ALTER TABLE p RENAME TO old;\n"+
			"CREATE TABLE p (id INTEGER PRIMARY KEY);\n"+
			"INSERT INTO p SELECT id FROM old;\nDROP TABLE old;", ""), want: "1 3 1 1 1"},
		"whose child is new": {file: step("CREATE TABLE d (r INTEGER REFERENCES r(id) ON DELETE CASCADE);\n"+
			"INSERT INTO d VALUES (1);\n"+intoR+
			"INSERT INTO r SELECT r + 1 FROM d;", ""), want: "1 3 2 1 1"},

		"renamed with its children": {file: step("ALTER TABLE p RENAME TO old;\n"+
			"CREATE TABLE p (id INTEGER PRIMARY KEY);\nINSERT INTO p SELECT id FROM old;\n"+
			"DROP TABLE old;", ""), want: "1 3 1 1 1",
			fails: `rows of "c" that refer to missing rows of "old": 3; nothing was changed`},
		"that loses a row": {file: step(strings.Replace(rebuilt, "FROM p", "FROM p WHERE id > 1", 1),
			""), want: "1 3 1 1 1",
			fails: `rows of "c" that refer to missing rows of "p": 3; nothing was changed`},
		"after a DELETE that its children should follow": {file: step("DELETE FROM p;\n"+rebuilt, ""),
			want: "1 3 1 1 1", fails: "foreign_key_check"},
		"that loses a row, without a transaction": {file: bare(strings.Replace(rebuilt, "FROM p",
			"FROM p WHERE id > 1", 1)), want: "0 3 1 1 1",
			fails: "what it did stays, and it counts as not applied"},

		"not, and a DELETE takes the children": {file: step("DELETE FROM p;", ""), want: "0 0 1 1 1"},
		"beside a DELETE that takes children": {file: step("DELETE FROM p;\nDROP TABLE r;\n"+
			"CREATE TABLE r (id INTEGER PRIMARY KEY);", ""), want: "0 0 0 1 1"},
		"in a text only": {file: step("-- DROP TABLE p; REFERENCES\n"+
			"CREATE TABLE t AS SELECT 'PRAGMA foreign_keys=OFF; it''s DROP TABLE p' AS x;\nDELETE FROM p;",
			""),
			want: "0 0 1 1 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "sqlite")
			acme := w.provision(t, w.fleet(t, fstest.MapFS{"00001_family.sql": step(family, "")}), "acme")
			w.exec(t, acme, "INSERT INTO p VALUES (1); INSERT INTO c VALUES (1), (1), (1); INSERT INTO r "+
				"VALUES (1); INSERT INTO n VALUES (1);INSERT INTO m VALUES (1)")
			f := w.fleet(t, fstest.MapFS{"00001_family.sql": step(family, ""), "00002_step.sql": test.file})
			report, err := f.Migrate(t.Context(), fleet.MigrateOptions{})
			if failed := errors.Is(err, fleet.ErrIncomplete); failed != (test.fails != "") ||
				err != nil && !failed {
				t.Errorf("Migrate = %v", err)
			}
			version := "2"
			for r, err := range f.Results(t.Context(), report.RunID, "") {
				must(t, err)
				if !strings.Contains(r.Error, test.fails) || test.fails == "" && r.Error != "" {
					t.Errorf("the error: %q", r.Error)
				}
				if test.fails != "" {
					version = "1"
				}
			}
			if got := w.ask(t, "acme", population); got != test.want {
				t.Errorf("rows of p, c, r, n and m: %s; want %s", got, test.want)
			}
			if got := w.ask(t, "acme", "SELECT max(version_id) FROM goose_db_version"); got != version {
				t.Errorf("the version is %s; want %s", got, version)
			}
			if got := w.ask(t, "acme", "PRAGMA foreign_keys"); got != "1" {
				t.Errorf("foreign keys are left as %s", got)
			}
		})
	}
}

func TestMigrate_sqliteRebuildAcceptsExistingViolations(t *testing.T) {
	w := newWorld(t, "sqlite")
	acme := w.provision(t, w.fleet(t, fstest.MapFS{"00001_family.sql": step(family, "")}), "acme")
	w.exec(t, acme, "INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)")
	lease, err := w.pool.Lease(acme)
	must(t, err)
	db := lease.Session()
	for _, statement := range []string{"PRAGMA foreign_keys = OFF", "INSERT INTO m VALUES (77)",
		"PRAGMA foreign_keys = ON"} {
		_, err := db.ExecContext(t.Context(), statement)
		must(t, err)
	}
	must(t, db.Close())
	lease.Release()
	_, err = w.fleet(t, fstest.MapFS{"00001_family.sql": step(family, ""),
		"00002_step.sql": step(rebuilt, "")}).Migrate(t.Context(), fleet.MigrateOptions{})
	must(t, err)
	if got := w.ask(t, "acme", population); got != "1 1 0 0 1" {
		t.Errorf("rows: %s", got)
	}
}

// SQLite can't check foreign keys while the parent table lacks a key.
func TestMigrate_sqliteRebuildMayRepairAKeyMismatch(t *testing.T) {
	const first = "CREATE TABLE p (name TEXT); CREATE TABLE c (p TEXT REFERENCES p(name)); INSERT INTO p " +
		"VALUES ('a');"
	for name, test := range map[string]struct {
		column string
		mended bool
	}{"with it": {"name TEXT UNIQUE", true}, "without it": {"name TEXT", false}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "sqlite")
			w.provision(t, w.fleet(t, fstest.MapFS{"00001_first.sql": step(first, "")}), "acme")
			second := "CREATE TABLE q (" + test.column + ");\nINSERT INTO q SELECT name FROM p;\n" +
				"DROP TABLE p;\nALTER TABLE q RENAME TO p;"
			_, err := w.fleet(t, fstest.MapFS{"00001_first.sql": step(first, ""),
				"00002_second.sql": step(second, "")}).
				Migrate(t.Context(), fleet.MigrateOptions{})
			if (err == nil) != test.mended {
				t.Errorf("migrated: %v", err)
			}
			if got := w.ask(t, "acme", "SELECT group_concat(name) FROM p"); got != "a" {
				t.Errorf("rows: %s", got)
			}
		})
	}
}

func TestMigrate_sqliteRebuildByADownAndInANewTenant(t *testing.T) {
	w := newWorld(t, "sqlite")
	f := w.fleet(t, fstest.MapFS{"00001_family.sql": step(family, ""),
		"00002_rows.sql": step("INSERT INTO p VALUES (1); INSERT INTO c VALUES (1);", ""),
		"00003_step.sql": step(rebuilt, rebuilt)})
	acme := w.provision(t, f, "acme")
	for _, down := range []bool{false, true} {
		if down {
			_, err := f.Migrate(context.Background(), fleet.MigrateOptions{Down: true, Target: 2})
			must(t, err)
			w.at(t, acme, 2)
		}
		if got := w.ask(t, "acme", population); got != "1 1 0 0 0" {
			t.Errorf("down %v: rows: %s", down, got)
		}
	}
}

func TestGoMigration_sqliteDropTableKeepsChildren(t *testing.T) {
	inTx := func(statement string) *goose.GoFunc {
		return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, statement)
			return err
		}}
	}
	onDB := &goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "DELETE FROM p")
		return err
	}}
	for name, test := range map[string]struct {
		run  *goose.GoFunc
		want string
		err  error
	}{
		"rebuilt":                    {inTx(rebuilt), "1 1 0 0 0", nil},
		"a DELETE in a transaction":  {inTx("DELETE FROM p"), "1 1 0 0 0", fleet.ErrIncomplete},
		"a DELETE outside of any":    {onDB, "0 0 0 0 0", nil},
		"a DELETE of the child, too": {inTx("DELETE FROM p; DELETE FROM c"), "0 0 0 0 0", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "sqlite")
			files := fstest.MapFS{"00001_family.sql": step(family, "")}
			acme := w.provision(t, w.fleet(t, files), "acme")
			w.exec(t, acme, "INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)")
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: files,
				GoMigrations: []*goose.Migration{goose.NewGoMigration(2, test.run, nil)}})
			must(t, err)
			if _, err := f.Migrate(t.Context(), fleet.MigrateOptions{}); !errors.Is(err, test.err) {
				t.Errorf("Migrate = %v; want %v", err, test.err)
			}
			if got := w.ask(t, "acme", population); got != test.want {
				t.Errorf("rows: %s; want %s", got, test.want)
			}
		})
	}
}
