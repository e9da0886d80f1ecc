package hostdb

import (
	"context"
	"database/sql"
)

// AccessQueries are the texts of the access query, for EXPLAIN and for the bare comparison.
func (db *DB) AccessQueries() map[[2]string]string {
	return accessQueries[db.engine]
}

// AccessBatchQueries are the texts of the batch's queries, by the keys' columns; no tenant column: of users
// alone.
func (db *DB) AccessBatchQueries() map[[2]string]string {
	texts := map[[2]string]string{}
	for kind, text := range accessBatchQueries[db.engine] {
		texts[[2]string{kind.user, kind.tenant}] = text
	}
	return texts
}

// Bare is the pool that reads run on.
func (db *DB) Bare() *sql.DB {
	return db.read
}

// BareWriter is the pool that writes run on.
func (db *DB) BareWriter() *sql.DB {
	return db.write
}

// Bare is the driver's transaction.
func (tx *Tx) Bare() *sql.Tx {
	return tx.sql
}

// Prune prunes the log of changes.
func (db *DB) Prune(ctx context.Context) error {
	return db.prune(ctx)
}

// ParseURL parses a URL and returns its masked form and, for SQLite, the file and the driver's name of it.
func ParseURL(given string) (masked, path, dsn string, err error) {
	from, err := parseURL(given)
	if err != nil {
		return "", "", "", err
	}
	if from.engine == sqlite {
		dsn = from.name()
	}
	return from.masked, from.path, dsn, nil
}

// Collision is an error after which a transaction runs again.
func Collision() error {
	return &failure{kind: ErrUnavailable, text: "collided", transient: true}
}

// Retry runs fn as a transaction is run.
func Retry(ctx context.Context, fn func() error) error {
	return retry(ctx, fn)
}

// Attempts is how often a transaction is run.
const Attempts = attempts

// APoller is the poller of a feed without its loop.
type APoller struct{ at cursor }

// Poller returns a poller.
func Poller(db *DB) APoller {
	return APoller{db.newCursor()}
}

// Poll polls once.
func (p APoller) Poll(ctx context.Context) error {
	_, _, err := p.at.poll(ctx)
	return err
}

// Close ends the poller.
func (p APoller) Close() {
	p.at.close()
}

// Verified are the objects that Verify looks for.
func Verified(onPostgres bool) (objects []string) {
	if !onPostgres {
		for _, row := range objectRows() {
			objects = append(objects, row[0]+" "+row[1])
		}
		return objects
	}
	for _, row := range triggerRows() {
		objects = append(objects, "trigger "+row[1])
	}
	for _, name := range uniqueKeys {
		objects = append(objects, "key "+name)
	}
	for _, name := range otherConstraints {
		objects = append(objects, "constraint "+name)
	}
	return objects
}
