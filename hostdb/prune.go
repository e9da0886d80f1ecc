package hostdb

import (
	"context"
	"fmt"
	"time"
)

// prune deletes changes that are older than the retention, and records the floor up to which it did.
func (db *DB) prune(ctx context.Context) error {
	if db.engine == postgres {
		return db.InTx(ctx, func(tx *Tx) error { return prunePostgres(ctx, session{db: db, tx: tx}) })
	}
	return db.pruneSQLite(ctx)
}

// removeForeignXIDs removes what a dump brought from another cluster and what refers to transactions that
// this cluster has not had yet. It removes no row of this cluster's transactions: a visible one has an id
// below the snapshot's end.
var removeForeignXIDs = []string{
	"DELETE FROM host_changes WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())",
	"DELETE FROM host_feed_marks WHERE pg_snapshot_xmax(snapshot) > pg_snapshot_xmax(pg_current_snapshot())",
	"UPDATE host_feed_floor SET floor = '0' WHERE floor > pg_snapshot_xmax(pg_current_snapshot())",
}

// prunePostgres deletes what a snapshot at least as old as the retention could see. A row's own age says
// nothing, because its transaction may have committed long after the row was written.
func prunePostgres(ctx context.Context, s session) error {
	var mine bool
	if err := s.queryRow(ctx, "SELECT pg_try_advisory_xact_lock(7307206461662302)", nil, &mine); err != nil ||
		!mine {
		return err
	}
	before := fmt.Sprintf("clock_timestamp() - make_interval(secs => %f)", s.db.config.Retention.Seconds())
	statements := append(removeForeignXIDs[:len(removeForeignXIDs):len(removeForeignXIDs)],
		"INSERT INTO host_feed_marks DEFAULT VALUES",
		"UPDATE host_feed_floor SET floor = greatest(floor, pg_snapshot_xmin(old.snapshot)) "+
			"FROM (SELECT snapshot "+
			"FROM host_feed_marks WHERE taken_at <= "+before+" ORDER BY taken_at DESC LIMIT 1) old",
		"DELETE FROM host_changes WHERE xid < (SELECT floor FROM host_feed_floor)",
		"DELETE FROM host_feed_marks WHERE taken_at < "+
			"(SELECT max(taken_at) FROM host_feed_marks WHERE taken_at <= "+before+")")
	for _, statement := range statements {
		if _, err := s.exec(ctx, statement, nil, asReported); err != nil {
			return err
		}
	}
	return nil
}

// pruneSQLite deletes by the rows' age: transactions begin and commit in the same order. It writes only if
// there is something to delete.
func (db *DB) pruneSQLite(ctx context.Context) error {
	limit := formatTime(db.config.Now().Add(-db.config.Retention).Add(-time.Millisecond))
	var newest int64
	// A floor above every id, as in a copy without sqlite_sequence, would make every poll a Reset.
	var high bool
	err := session{db: db}.queryRow(ctx,
		"SELECT (SELECT coalesce(max(id), 0) FROM host_changes WHERE changed_at < $1), "+
			"coalesce((SELECT floor FROM host_feed_floor) > "+newestSQLite+", 0)", []any{limit}, &newest,
		&high)
	if err != nil || newest == 0 && !high {
		return err
	}
	return db.InTx(ctx, func(tx *Tx) error {
		s := session{db: db, tx: tx}
		if _, err := s.exec(ctx, "UPDATE host_feed_floor SET floor = "+newestSQLite+" WHERE floor > "+
			newestSQLite, nil, asReported); err != nil {
			return err
		}
		if _, err := s.exec(ctx, "UPDATE host_feed_floor SET floor = max(floor, $1)", []any{newest},
			asReported); err != nil {
			return err
		}
		_, err := s.exec(ctx, "DELETE FROM host_changes WHERE id <= $1", []any{newest}, asReported)
		return err
	})
}
