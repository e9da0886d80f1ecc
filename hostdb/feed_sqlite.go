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
	version     int64 // data_version: it changes when another connection has committed
	last        int64
	fingerprint string // of the last change; "" where it has been pruned
	started     bool
}

// newestSQLite is the id of the newest change that there has been.
const newestSQLite = "(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'host_changes')"

// trace is what tells a change from another one with its id, which a restored copy of the file may hold.
const fingerprintOf = "coalesce((SELECT changed_at || kind || coalesce(user_id, '') || coalesce(tenant_id, " +
	"'') || " + "coalesce(plan_id, '') FROM host_changes WHERE id = "

const pollSQLite = `SELECT coalesce(f.floor, 9223372036854775807), ` + newestSQLite + `,
		` + fingerprintOf + `$1), ''), ` + fingerprintOf + newestSQLite + `), ''),
		coalesce(c.id, 0), coalesce(c.kind, ''), coalesce(c.user_id, ''), coalesce(c.tenant_id, ''),
		coalesce(c.plan_id, '')
	FROM (SELECT 1) LEFT JOIN host_feed_floor f LEFT JOIN host_changes c ON c.id > $1 ORDER BY c.id
	LIMIT 10001`

// connect opens the connection, if there is none, to the file that the database was opened with.
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
		c.close() // the driver may have given the connection up
	}
	return changes, reset, err
}

// readChanges returns what is new. An unchanged data_version spares the query; in memory there is none.
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
	another := before != c.fingerprint && (before != "" || floor < c.last) // else it has been pruned
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

// wait implements cursor. Own commits end ctx.
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

// errReplaced is every statement's answer once the file is another.
var errReplaced = &failure{kind: ErrUnavailable,
	text: "the database's file has been replaced or removed; open it again"}

// checkFile fails when the file at the path is not the one that was opened, and so do statements until it
// is.
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
