package hostdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// newCursor returns a cursor at the end of the log.
func (db *DB) newCursor() cursor {
	if db.engine == postgres {
		return &postgresCursor{db: db}
	}
	return &sqliteCursor{db: db, version: -1}
}

// postgresCursor polls on a connection of its own, on which NOTIFY arrives too.
type postgresCursor struct {
	db       *DB
	conn     *pgx.Conn
	notified bool
	snapshot string // what has been delivered: every transaction visible in it
	identity string // the cluster, its timeline, the database, the table, and when the server started
	polled   time.Time
}

// The cursor is a snapshot, since transactions commit in another order than they take ids. Whatever is visible now and was
// not visible then is new. The floor says which transactions' rows have been pruned. A restored backup may have used more transaction
// ids by now than the server had before, but it has been started; and a crash may lose what synchronous_commit = off had reported.
const pollPostgres = `WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
	p AS MATERIALIZED (SELECT coalesce(nullif($1, ''), s.snapshot::text)::pg_snapshot AS snapshot FROM s)
	SELECT s.snapshot::text,
		(SELECT system_identifier FROM pg_control_system())::text || '/' ||
			left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '/' ||
			(SELECT oid FROM pg_database WHERE datname = current_database())::text || '/' || 'host_changes'::regclass::oid::text || '/' ||
			extract(epoch FROM pg_postmaster_start_time())::text,
		(SELECT floor FROM host_feed_floor) > pg_snapshot_xmin(p.snapshot)
			OR pg_snapshot_xmax(p.snapshot) > pg_snapshot_xmax(s.snapshot),
		coalesce(c.kind, ''), coalesce(c.user_id, ''), coalesce(c.tenant_id, ''), coalesce(c.plan_id, '')
	FROM s CROSS JOIN p LEFT JOIN host_changes c
		ON c.xid >= pg_snapshot_xmin(p.snapshot) AND NOT pg_visible_in_snapshot(c.xid, p.snapshot)
	LIMIT 10001`

// connect opens the connection, if there is none.
func (c *postgresCursor) connect(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() {
		return nil
	}
	config := c.db.origin.server.Copy()
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { c.notified = true }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	c.conn = conn
	if c.db.config.NoNotify {
		return nil
	}
	_, err = conn.Exec(ctx, "LISTEN hostdb_changes")
	return err
}

// poll implements cursor. A connection on which it failed is not used again: another may lead to another server.
func (c *postgresCursor) poll(ctx context.Context) ([]Change, bool, error) {
	c.polled = time.Now()
	err := c.connect(ctx)
	var changes []Change
	reset := false
	if err == nil {
		changes, reset, err = c.look(ctx)
	}
	if err != nil {
		c.close()
	}
	return changes, reset, err
}

// look asks for what has not been delivered.
func (c *postgresCursor) look(ctx context.Context) ([]Change, bool, error) {
	c.notified = false
	rows, err := c.conn.Query(ctx, pollPostgres, c.snapshot)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	var (
		changes            []Change
		snapshot, identity string
		lost, reset        bool
	)
	for rows.Next() {
		var change Change
		if err := rows.Scan(&snapshot, &identity, &lost, &change.Kind, &change.UserID, &change.TenantID, &change.PlanID); err != nil {
			return nil, false, err
		}
		reset = reset || lost || change.Kind == "reset"
		if change.Kind != "" {
			changes = append(changes, change)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, err
	}
	reset = reset || identity != c.identity
	c.snapshot, c.identity = snapshot, identity
	return changes, reset, nil
}

// pollGap keeps a storm of notifications from becoming a storm of polls.
const pollGap = 10 * time.Millisecond

// wait implements cursor.
func (c *postgresCursor) wait(ctx context.Context) {
	if !c.notified && c.conn != nil && !c.conn.IsClosed() {
		// The end of ctx leaves the connection open; a lost connection ends the wait.
		_ = c.conn.PgConn().WaitForNotification(ctx)
	} else if !c.notified {
		<-ctx.Done()
	}
	gap := time.NewTimer(pollGap - time.Since(c.polled))
	defer gap.Stop()
	<-gap.C
}

// close implements cursor.
func (c *postgresCursor) close() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.conn.Close(ctx)
	}
}
