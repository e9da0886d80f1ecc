package hostdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// newCursor returns a cursor at the end of the log.
func (db *DB) newCursor() cursor {
	if db.engine == postgres {
		return newPostgresCursor(db)
	}
	return &sqliteCursor{db: db, version: -1}
}

// postgresCursor polls on a connection of its own, which also receives NOTIFY.
type postgresCursor struct {
	db       *DB
	dialer   *pghosts.Dialer
	conn     *pgx.Conn
	notified bool
	text     string // the query, which depends on what the server tells about itself
	snapshot string // every transaction visible in it has been delivered
	identity string // the cluster, its timeline, the database, the table, and the server's start
	polled   time.Time
}

func newPostgresCursor(db *DB) *postgresCursor {
	c := &postgresCursor{db: db}
	config := db.origin.server.Copy()
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { c.notified = true }
	c.dialer = pghosts.NewDialer(db.hosts, config)
	return c
}

// pollPostgres is the query for new changes. %s is the server's identity.
//
// The cursor is a snapshot, because transactions commit in another order than they take ids: new is what is
// visible now and wasn't then. The floor says which transactions' rows have been pruned. After a restored
// backup the server may have used more transaction ids than before, but it has been restarted. A crash may
// lose what synchronous_commit = off had reported.
//
// In a dump restored into another cluster, ids are those of the old cluster. foreign is true if one of them
// is still to come: no visible row that a transaction of this cluster wrote has such an id.
const pollPostgres = `WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
	p AS MATERIALIZED (SELECT coalesce(nullif($1, ''), s.snapshot::text)::pg_snapshot AS snapshot FROM s)
	SELECT s.snapshot::text, %s,
		coalesce((SELECT floor FROM host_feed_floor) > pg_snapshot_xmin(p.snapshot), true)
			OR pg_snapshot_xmax(p.snapshot) > pg_snapshot_xmax(s.snapshot) AS lost,
		coalesce((SELECT floor FROM host_feed_floor) > pg_snapshot_xmax(s.snapshot), false)
			OR coalesce((SELECT xid FROM host_changes ORDER BY xid DESC LIMIT 1)
				>= pg_snapshot_xmax(s.snapshot), false) AS foreign,
		coalesce(c.kind, ''), coalesce(c.user_id, ''), coalesce(c.tenant_id, ''), coalesce(c.plan_id, '')
	FROM s CROSS JOIN p LEFT JOIN host_changes c
		ON c.xid >= pg_snapshot_xmin(p.snapshot) AND NOT pg_visible_in_snapshot(c.xid, p.snapshot)
	LIMIT 10001`

// everyIdentity is what every server tells: its database, the table, and when the server started.
const everyIdentity = `(SELECT oid FROM pg_database WHERE datname = current_database())::text || '/' ||
	'host_changes'::regclass::oid::text || '/' || extract(epoch FROM pg_postmaster_start_time())::text`

// optionalIdentities are the cluster and its timeline. Some providers' servers, such as Aurora, and some
// roles may not read them. Nothing depends on them alone, because a server that takes over from another one
// also has another start.
var optionalIdentities = []string{"(SELECT system_identifier FROM pg_control_system())::text",
	"left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"}

// pollText returns the query for what the server of a connection tells.
func pollText(ctx context.Context, conn *pgx.Conn) (string, error) {
	identity := everyIdentity
	for _, further := range optionalIdentities {
		_, err := conn.Exec(ctx, "SELECT "+further)
		switch {
		case err == nil:
			identity += " || '/' || " + further
		case !pghosts.IdentityRefused(err):
			return "", err
		}
	}
	return fmt.Sprintf(pollPostgres, identity), nil
}

// connect opens the connection unless there is one to the server that serves.
func (c *postgresCursor) connect(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() && !pghosts.StandingOf(c.conn).Outdated() {
		return nil
	}
	c.disconnect()
	opened, err := c.dialer.Connect(ctx)
	if err != nil {
		return err
	}
	c.conn = opened.(*stdlib.Conn).Conn()
	c.db.feedConns.Add(1)
	return c.withAnswerTimeout(ctx, func(ctx context.Context) (err error) {
		if c.text, err = pollText(ctx, c.conn); err != nil || c.db.config.NoNotify || c.db.pooled {
			return err // behind a pooler another client's transaction would receive the notifications
		}
		_, err = c.conn.Exec(ctx, "LISTEN hostdb_changes")
		return err
	})
}

// withAnswerTimeout runs queries. If the server has other hosts beside it, they get less time, so that
// another host can be reached while what is cached may still be used.
func (c *postgresCursor) withAnswerTimeout(ctx context.Context, queries func(context.Context) error) error {
	standing := pghosts.StandingOf(c.conn)
	if !standing.Several() {
		return queries(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := queries(bounded)
	if err != nil && bounded.Err() != nil && context.Cause(ctx) != context.Canceled {
		standing.Silent()
	}
	return err
}

// answerTimeout limits the queries of one step of a poll if there are several hosts.
const answerTimeout = pollTimeout / 5

// poll implements cursor.
func (c *postgresCursor) poll(ctx context.Context) (changes []Change, reset bool, err error) {
	c.polled = time.Now()
	err = c.query(ctx, func(ctx context.Context) (err error) {
		changes, reset, err = c.readChanges(ctx)
		return err
	})
	return changes, reset, err
}

// verify implements cursor.
func (c *postgresCursor) verify(ctx context.Context) (faults []Fault, err error) {
	err = c.query(ctx, func(ctx context.Context) (err error) {
		rows, _ := c.conn.Query(ctx, verifyPostgres) // the rows hold its error
		faults, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Fault])
		return err
	})
	return faults, err
}

// query runs queries on the connection. It closes a connection on which they failed, because the next one may
// lead to another server.
func (c *postgresCursor) query(ctx context.Context, queries func(context.Context) error) error {
	err := c.connect(ctx)
	if err == nil {
		err = c.withAnswerTimeout(ctx, queries)
	}
	if err != nil {
		c.disconnect()
	}
	return err
}

// readChanges returns what hasn't been delivered.
func (c *postgresCursor) readChanges(ctx context.Context) (changes []Change, reset bool, err error) {
	var (
		change             Change
		snapshot, identity string
		lost, foreign      bool
	)
	c.notified = false
	rows, _ := c.conn.Query(ctx, c.text, c.snapshot) // the rows hold its error
	_, err = pgx.ForEachRow(rows, []any{&snapshot, &identity, &lost, &foreign, &change.Kind, &change.UserID,
		&change.TenantID, &change.PlanID}, func() error {
		reset = reset || lost || foreign || change.Kind == "reset"
		if change.Kind != "" {
			changes = append(changes, change)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	if foreign {
		for _, statement := range removeForeignXIDs {
			if _, err := c.conn.Exec(ctx, statement); err != nil {
				return nil, false, err
			}
		}
	}
	reset = reset || identity != c.identity
	c.snapshot, c.identity = snapshot, identity
	return changes, reset, nil
}

// pollGap keeps many notifications from causing as many polls.
const pollGap = 10 * time.Millisecond

// wait implements cursor.
func (c *postgresCursor) wait(ctx context.Context) {
	if !c.notified && c.conn != nil && !c.conn.IsClosed() {
		// The end of ctx leaves the connection open. A lost connection ends the wait.
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
	c.disconnect()
	c.dialer.Stop()
}

// disconnect closes the connection. It doesn't wait for a server that hangs.
func (c *postgresCursor) disconnect() {
	if c.conn != nil {
		patience := time.Second
		if pghosts.StandingOf(c.conn).Outdated() {
			patience = 10 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.conn.Close(ctx)
		c.conn = nil
		c.db.feedConns.Add(-1)
	}
}
