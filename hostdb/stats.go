package hostdb

import "database/sql"

// Stats is a snapshot of the connections that a DB has open. Its counters run from Open.
type Stats struct {
	// Write and Read are the pools for changes and for queries. PostgreSQL has one pool for both: it is
	// Write, and Read is zero.
	Write, Read sql.DBStats
	// Lookups is the pool of [DB.Access] and [DB.AccessAll].
	Lookups sql.DBStats
	// FeedConns is how many connections of their own the change feeds have. SQLite: none.
	FeedConns int
}

// Stats returns a snapshot. It is zero until the database has started.
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

// Conns is how many connections are open in all. A connection that the server ended counts until it is next
// used.
func (s Stats) Conns() int {
	return s.Write.OpenConnections + s.Read.OpenConnections + s.Lookups.OpenConnections + s.FeedConns
}
