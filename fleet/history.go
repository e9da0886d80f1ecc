package fleet

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/tenantdb/tenantdb"
)

// versionTable is where goose notes what it applied.
const versionTable = goose.DefaultTablename

// history is what a database says of the migrations that were applied to it.
type history struct {
	applied []int64
	exists  bool // there is a table of versions
}

// historyOf reads what was applied to a database, with one query where it was migrated before. It writes
// nothing.
func historyOf(ctx context.Context, db *sql.DB, dialect goose.Dialect) (h history, err error) {
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

// createVersions makes goose's table as goose makes it.
func createVersions(ctx context.Context, db *sql.DB, dialect goose.Dialect) error {
	store, err := database.NewStore(dialect, versionTable)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := store.CreateVersionTable(ctx, tx); err != nil {
		return err
	}
	if err := store.Insert(ctx, tx, database.InsertRequest{Version: 0}); err != nil {
		return err
	}
	return tx.Commit()
}

// errOvertaken: somebody whose lease is over, or who took this one over, did the same in the meantime.
var errOvertaken = errors.New("another process migrates this database")

// note notes that a migration was applied, or taken back, unless that is noted already. In the migration's
// transaction the failure undoes what was done a second time.
func note(ctx context.Context, on database.DBTxConn, version int64, down bool) error {
	statement := "INSERT INTO " + versionTable + " (version_id, is_applied) SELECT CAST($1 AS BIGINT), true WHERE NOT EXISTS" +
		" (SELECT 1 FROM " + versionTable + " WHERE version_id = $1 AND is_applied)"
	if down {
		statement = "DELETE FROM " + versionTable + " WHERE version_id = $1"
	}
	result, err := on.ExecContext(ctx, statement, version)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(errOvertaken, err)
	}
	return nil
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
