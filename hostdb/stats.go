package hostdb

import "database/sql"

// Stats is a snapshot of a DB's open connections. Its counters start at Open.
type Stats struct {
	// Write and Read are the pools for changes and for queries. PostgreSQL has one pool for both: it is
	// Write, and Read is zero.
	Write, Read sql.DBStats
	// Lookups is the pool of [DB.Access] and [DB.AccessAll].
	Lookups sql.DBStats
	// FeedConns is how many connections the change feed has open. In SQLite it is 0.
	FeedConns int
}

// Stats returns a snapshot of the connections. It is zero until the database has started.
func (db *DB) Stats() Stats {
	if !db.isStarted() {
		return Stats{}
	}
	s := Stats{Write: db.write.Stats(), Lookups: db.lookups.Stats(), FeedConns: int(db.feedConns.Load())}
	if db.read != db.write {
		s.Read = db.read.Stats()
	}
	return s
}
