package fleet

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"log"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

// recorder is a database that records the statements of goose, and whether goose began a transaction.
type recorder struct {
	began      bool
	statements []string
}

func (r *recorder) Connect(context.Context) (driver.Conn, error) { return recorderConn{r}, nil }
func (r *recorder) Driver() driver.Driver                        { return nil }

type recorderConn struct{ *recorder }

func (recorderConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not used") }
func (recorderConn) Close() error                        { return nil }
func (c recorderConn) Begin() (driver.Tx, error)         { c.began = true; return c, nil }
func (recorderConn) Commit() error                       { return nil }
func (recorderConn) Rollback() error                     { return nil }

func (c recorderConn) ExecContext(_ context.Context, query string,
	_ []driver.NamedValue) (driver.Result, error) {
	c.statements = append(c.statements, query)
	return driver.RowsAffected(1), nil
}

// byGoose parses one section of a file with goose.
func byGoose(text string, down bool) (statements []string, inTx bool, err error) {
	r := &recorder{}
	db := sql.OpenDB(r)
	defer db.Close()
	store, err := database.NewStore(goose.DialectSQLite3, versionTable)
	if err != nil {
		return nil, false, err
	}
	p, err := goose.NewProvider(goose.DialectCustom, db, fstest.MapFS{"00001_x.sql": {Data: []byte(text)}},
		goose.WithStore(everything{store, down}),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(log.New(io.Discard, "", 0)))
	if err == nil {
		_, err = p.ApplyVersion(context.Background(), 1, !down)
	}
	return r.statements, r.began, err
}

// FuzzParseSQL_agreesWithGoose checks that both parsers return the same statements, and refuse the same
// files.
func FuzzParseSQL_agreesWithGoose(f *testing.F) {
	for _, text := range []string{
		"-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 2;\n",
		"-- +goose NO TRANSACTION\n-- +goose Up\nSELECT 1; -- one\nSELECT\n 2 ;\n",
		"-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\nSELECT 2;\n-- +goose StatementEnd\n\n" +
			"SELECT 3;\n-- +goose Down\n-- a comment\nSELECT 4;",
		"-- +goose Up\nSELECT 1\n", "SELECT 1;\n", "", "-- +goose Up\n-- +goose Up\n", "-- +goose Down\n",
		"-- +goose Up\n-- +goose Sideways\n",
		" -- +goose Up\nSELECT 1;\n", "-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n",
		"-- +goose up\r\nSELECT 1;\r\n--+goose DOWN\r\nSELECT 2;\r\n",
		"-- +goose Up\n-- +goose ENVSUB ON\nSELECT '$HOME' || '${NONE:-x}';\n" +
			"-- +goose ENVSUB OFF\nSELECT '$HOME';\n",
		"-- +goose Up\nSELECT 1\n-- +goose Down\nSELECT 2;\n",
		"-- +goose Up\nSELECT 1; SELECT 2;\nSELECT 3;\n-- +goose StatementEnd\n",
		"-- +goose Up\n-- +goose Down\n-- +goose Down\n",
		"-- +goose Up\n-- +goose StatementBegin\n-- +goose Down\n",
		"-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${';\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ours, err := parseSQL(text)
		if strings.ContainsAny(text, "\v\f") || blankOrEmptyBlock(text) {
			// goose differs: a blank line begins a statement, and the line after an empty block is lost
			return
		}
		var up, down []string
		var tx bool
		up, tx, upErr := byGoose(text, false)
		if upErr == nil {
			down, _, upErr = byGoose(text, true)
		}
		if (err == nil) != (upErr == nil) {
			t.Fatalf("%q: %v; goose: %v", text, err, upErr)
		}
		if err != nil {
			return
		}
		if !slices.Equal(texts(ours.up), up) || !slices.Equal(texts(ours.down), down) || ours.noTx == tx {
			t.Errorf("%q: %+v; goose: %q and %q, in a transaction %v", text, ours, up, down, tx)
		}
	})
}

// blankOrEmptyBlock reports whether goose parses a file differently.
func blankOrEmptyBlock(text string) bool {
	opened := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		if line != "" && trimmed == "" {
			return true
		}
		annotation := strings.HasPrefix(trimmed, "--") && strings.Contains(line, "+goose")
		if opened && (annotation || trimmed == "" || strings.HasPrefix(trimmed, "--")) {
			return true
		}
		opened = annotation && strings.Contains(strings.ToUpper(line), "STATEMENTBEGIN")
	}
	return false
}

func texts(statements []statement) (all []string) {
	for _, s := range statements {
		all = append(all, s.text)
	}
	return all
}

// everything is a goose store that records nothing. Its value says whether migrations are applied.
type everything struct {
	database.Store
	applied bool
}

func (everything) TableExists(context.Context, database.DBTxConn) (bool, error) { return true, nil }
func (everything) Insert(context.Context, database.DBTxConn, database.InsertRequest) error {
	return nil
}
func (everything) Delete(context.Context, database.DBTxConn, int64) error { return nil }
func (e everything) GetMigration(context.Context, database.DBTxConn,
	int64) (*database.GetMigrationResult, error) {
	if !e.applied {
		return nil, database.ErrVersionNotFound
	}
	return &database.GetMigrationResult{IsApplied: true}, nil
}
