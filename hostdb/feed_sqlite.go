package hostdb

import (
	"context"
	"database/sql"
	"os"

	sqlitedriver "modernc.org/sqlite"
)

// sqliteCursor polls on a connection of its own. Writers take turns, so ids are in the order of the commits.
type sqliteCursor struct {
	db          *DB
	pool        *sql.DB
	conn        *sql.Conn
	version     int64 // data_version: changes when another connection commits
	last        int64
	fingerprint string // of the last change; "" if it has been pruned
	started     bool
}

// newestSQLite is the id of the newest change there has ever been.
const newestSQLite = "(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'host_changes')"

// fingerprintOf distinguishes a change from another one with the same id, which a restored copy of the file
// may contain.
const fingerprintOf = "coalesce((SELECT changed_at || kind || coalesce(user_id, '') || coalesce(tenant_id, " +
	"'') || " + "coalesce(plan_id, '') FROM host_changes WHERE id = "

const pollSQLite = `SELECT coalesce(f.floor, 9223372036854775807), ` + newestSQLite + `,
		` + fingerprintOf + `$1), ''), ` + fingerprintOf + newestSQLite + `), ''),
		coalesce(c.id, 0), coalesce(c.kind, ''), coalesce(c.user_id, ''), coalesce(c.tenant_id, ''),
		coalesce(c.plan_id, '')
	FROM (SELECT 1) LEFT JOIN host_feed_floor f LEFT JOIN host_changes c ON c.id > $1 ORDER BY c.id
	LIMIT 10001`

// connect opens the connection unless there is one. It fails if the file was replaced.
func (c *sqliteCursor) connect(ctx context.Context) error {
	if err := c.db.checkFile(); err != nil {
		return err
	}
	if c.conn != nil {
		return nil
	}
	connector, err := sqlitedriver.NewConnector(c.db.origin.dsn + readerConn)
	if err != nil {
		return err
	}
	pool := sql.OpenDB(connector)
	conn, err := pool.Conn(ctx)
	if err != nil {
		_ = pool.Close()
		return err
	}
	c.pool, c.conn, c.version = pool, conn, -1
	return nil
}

// poll implements cursor.
func (c *sqliteCursor) poll(ctx context.Context) ([]Change, bool, error) {
	if err := c.connect(ctx); err != nil {
		return nil, false, err
	}
	changes, reset, err := c.readChanges(ctx)
	if err != nil {
		c.close() // the driver may have closed the connection
	}
	return changes, reset, err
}

// readChanges returns what is new. If data_version is unchanged, it needs no query. In memory there is no
// data_version.
func (c *sqliteCursor) readChanges(ctx context.Context) ([]Change, bool, error) {
	var version int64
	if err := c.conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version); err != nil {
		return nil, false, err
	}
	if c.started && version == c.version && c.db.origin.path != "" {
		return nil, false, nil
	}
	var (
		changes           []Change
		floor, newest, id int64
		before, trace     string
	)
	err := eachRow(ctx, c.conn, pollSQLite, []any{c.last}, func(row scanner) error {
		var change Change
		err := row.Scan(&floor, &newest, &before, &trace, &id, &change.Kind, &change.UserID, &change.TenantID,
			&change.PlanID)
		if id != 0 {
			changes = append(changes, change)
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	another := before != c.fingerprint && (before != "" || floor < c.last) // otherwise it was pruned
	reset := !c.started || floor > c.last || newest < c.last || another
	c.started, c.version, c.last, c.fingerprint = true, version, newest, trace
	return changes, reset, nil
}

// verify implements cursor.
func (c *sqliteCursor) verify(ctx context.Context) (faults []Fault, err error) {
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	err = eachRow(ctx, c.conn, verifySQLite, nil, func(row scanner) error { return readFault(row, &faults) })
	if err != nil {
		c.close()
	}
	return faults, err
}

// wait implements cursor. This process's commits end ctx.
func (c *sqliteCursor) wait(ctx context.Context) {
	<-ctx.Done()
}

// close implements cursor.
func (c *sqliteCursor) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		_ = c.pool.Close()
		c.conn = nil
	}
}

// errReplaced is the error of every statement after the file was replaced.
var errReplaced = &failure{kind: ErrUnavailable,
	text: "the database's file has been replaced or removed; open it again"}

// checkFile returns an error if the file at the path is not the one that was opened. Statements fail until
// it is.
func (db *DB) checkFile() error {
	if db.origin.path == "" {
		return nil
	}
	info, err := os.Stat(db.origin.path)
	gone := err != nil || !os.SameFile(info, db.origin.file)
	db.replaced.Store(gone)
	if gone {
		return errReplaced
	}
	return nil
}
