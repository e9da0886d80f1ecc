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

// versionTable is goose's table of applied migrations.
const versionTable = goose.DefaultTablename

// history is which migrations a database has, by its own account.
type history struct {
	applied []int64
	exists  bool // the table of versions exists
}

// historyOf reads the history of a database and writes nothing. It asks one query of a database that was
// migrated before.
func historyOf(ctx context.Context, db *sql.DB, dialect goose.Dialect) (h history, err error) {
	err = retryBusy(ctx, func() error {
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
	if asked := db.QueryRowContext(ctx, exists).Scan(&tables); asked == nil && tables == 0 {
		return h, nil
	}
	return h, err
}

// readVersions reads goose's table.
func readVersions(ctx context.Context, db *sql.DB) ([]int64, error) {
	rows, err := db.QueryContext(ctx,
		"SELECT version_id FROM "+versionTable+" WHERE is_applied AND version_id > 0")
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

// createVersions creates goose's table as goose does.
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

// errOvertaken means that a process whose lease expired, or that took over this one, migrated the database
// too.
var errOvertaken = errors.New("another process migrates this database")

// record records that a migration was applied or undone. It fails with errOvertaken if that is recorded
// already: in the migration's transaction the failure rolls back what would be done twice.
func record(ctx context.Context, on database.DBTxConn, version int64, down bool) error {
	statement := "INSERT INTO " + versionTable + " (version_id, is_applied) SELECT CAST($1 AS BIGINT), true" +
		" WHERE NOT EXISTS (SELECT 1 FROM " + versionTable + " WHERE version_id = $1 AND is_applied)"
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

// busyPause is the time between two attempts to get a connection.
const busyPause = 50 * time.Millisecond

// retryBusy repeats do while the pool's connections are in use: migrations and requests share them.
func retryBusy(ctx context.Context, do func() error) error {
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
