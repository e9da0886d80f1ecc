package hostdb

import (
	"context"
	"database/sql"
)

// AccessQueries returns the access queries by the keys' columns, for EXPLAIN and for comparison with the
// driver alone.
func (db *DB) AccessQueries() map[[2]string]string {
	return byColumns(accessQueries[db.engine])
}

// AccessBatchQueries returns the batch queries by the keys' columns. The tenant's is "" for users alone.
func (db *DB) AccessBatchQueries() map[[2]string]string {
	return byColumns(accessBatchQueries[db.engine])
}

func byColumns(queries map[accessKind]string) map[[2]string]string {
	texts := map[[2]string]string{}
	for kind, text := range queries {
		texts[[2]string{kind.user, kind.tenant}] = text
	}
	return texts
}

// Bare returns the pool for reads.
func (db *DB) Bare() *sql.DB {
	return db.read
}

// BareWriter returns the pool for writes.
func (db *DB) BareWriter() *sql.DB {
	return db.write
}

// Bare returns the driver's transaction.
func (tx *Tx) Bare() *sql.Tx {
	return tx.sql
}

// Prune prunes the log of changes.
func (db *DB) Prune(ctx context.Context) error {
	return db.prune(ctx)
}

// ParseURL parses a URL and returns its masked form and, for SQLite, the file and the driver's name.
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

// Collision returns an error after which a transaction is retried.
func Collision() error {
	return &failure{kind: ErrUnavailable, text: "collided", transient: true}
}

// Retry calls fn as InTx does.
func Retry(ctx context.Context, fn func() error) error {
	return retry(ctx, fn)
}

// Attempts is how often a transaction is tried.
const Attempts = attempts

// APoller is a feed's poller without its loop.
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

// Verified returns the objects that Verify looks for.
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
