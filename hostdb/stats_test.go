package hostdb_test

import (
	"context"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The server's own count includes every connection of each pool and of the feed.
func TestDB_Stats_countsWhatTheServerCounts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := postgresURL(t)
	server := raw(t, open(t, hostdb.Config{URL: hostdb.Secret(url)}))
	db := open(t, hostdb.Config{URL: hostdb.Secret(url + "&application_name=counted")})
	if s := db.Stats(); s.Lookups.OpenConnections != 0 || s.FeedConns != 0 {
		t.Errorf("at the start there are %d lookup connections and %d of the feed", s.Lookups.OpenConnections,
			s.FeedConns)
	}
	listen(t, db)
	for range 3 { // open at the same time
		tx, err := db.Begin(ctx)
		must(t, err)
		defer tx.Rollback()
	}
	user := newUser(t, db)
	_, err := db.SoleTenants(ctx, hostdb.UserKey{ID: user.ID})
	must(t, err)
	var want int
	must(t, server.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted' "+
		"AND datname = current_database()").Scan(&want))
	s := db.Stats()
	conns := s.Write.OpenConnections + s.Read.OpenConnections + s.Lookups.OpenConnections + s.FeedConns
	if conns != want || s.Write.InUse != 3 || s.FeedConns != 1 {
		t.Errorf("Stats tells of %d connections, %d in transactions and %d of the feed; the server has %d, "+
			"3 and 1", conns, s.Write.InUse, s.FeedConns, want)
	}
}
