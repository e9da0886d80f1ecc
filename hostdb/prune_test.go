package hostdb_test

import (
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestChanges_resetForAPrunedCursor(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, seldom(url))
			events, pool := listen(t, db), raw(t, db)
			id := hostdb.NewID()
			_, err := pool.Exec("INSERT INTO core_users (id, email) VALUES ('" + id + "', 'a')")
			must(t, err)
			if name == "postgres" { // another process prunes while this one can't poll
				wantChanges(t, events, hostdb.Change{Kind: "user", UserID: id}) // by NOTIFY
				// The cursor's snapshot doesn't include this transaction.
				_, err = pool.Exec("SELECT pg_current_xact_id()")
				must(t, err)
				_, err = pool.Exec("UPDATE host_feed_floor SET floor = pg_current_xact_id()")
				must(t, err)
			} else {
				_, err = pool.Exec("UPDATE host_feed_floor SET floor = (SELECT max(id) FROM host_changes)")
				must(t, err)
				_, err = pool.Exec("DELETE FROM host_changes")
				must(t, err)
			}
			db.Wake()
			until(t, events, func(_ []hostdb.Change, d hostdb.Delivery) bool { return d.Reset })
		})
	}
}

func TestPrune_keepsWhatIsYoungerThanTheRetention(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			config := hostdb.Config{URL: hostdb.Secret(url)}
			db := open(t, config)
			pool := raw(t, db)
			rows := func() (n int) {
				t.Helper()
				must(t, pool.QueryRow("SELECT count(*) FROM host_changes").Scan(&n))
				return n
			}
			for range 3 {
				newTenant(t, db)
			}
			open(t, config) // prunes
			if rows() != 3 {
				t.Fatalf("%d changes are left, want 3", rows())
			}
			if name == "postgres" {
				open(t, config) // leaves a mark after all three
				_, err := pool.Exec("UPDATE host_feed_marks SET taken_at = taken_at - interval '2 hours'")
				must(t, err)
			} else {
				_, err := pool.Exec("UPDATE host_changes SET changed_at = '2020-01-01T00:00:00.000000Z'")
				must(t, err)
			}
			newTenant(t, db)
			open(t, config)
			if rows() != 1 {
				t.Fatalf("%d changes are left, want the youngest", rows())
			}
		})
	}
}

// A transaction that began before the mark and commits after it must not lose its rows to pruning.
func TestPrune_sparesALongTransactionsRows(t *testing.T) {
	config := seldom(postgresURL(t))
	db := open(t, config)
	events, pool := listen(t, db), raw(t, db)
	tx, err := pool.Begin()
	must(t, err)
	defer tx.Rollback()
	id := hostdb.NewID()
	_, err = tx.Exec("INSERT INTO core_users (id, email) VALUES ('" + id + "', 'a')")
	must(t, err)
	open(t, config)
	_, err = pool.Exec("UPDATE host_feed_marks SET taken_at = taken_at - interval '2 hours'")
	must(t, err)
	open(t, config) // prunes by that mark
	must(t, tx.Commit())
	wantChanges(t, events, hostdb.Change{Kind: "user", UserID: id})
}
