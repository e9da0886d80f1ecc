package hostdb_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// onEngines runs a benchmark on both engines, SQLite in a file.
func onEngines(b *testing.B, run func(b *testing.B, db *hostdb.DB)) {
	for _, engine := range []struct {
		name  string
		place func(testing.TB) string
	}{{"postgres", postgresURL}, {"file", fileURL}} {
		b.Run(engine.name, func(b *testing.B) {
			b.ReportAllocs()
			run(b, open(b, hostdb.Config{URL: hostdb.Secret(engine.place(b)), MaxConns: 4}))
		})
	}
}

// BenchmarkAccess compares the access query at 100k tenants, 300k users and 500k memberships with the same SQL run bare through
// the same driver, and with a select by primary key.
func BenchmarkAccess(b *testing.B) {
	onEngines(b, func(b *testing.B, db *hostdb.DB) {
		const tenants = 100_000
		crowd(b, db, tenants, 3*tenants, 5*tenants)
		ctx := context.Background()
		keys := func(i int) (string, string) {
			n := i * 7919 % tenants
			return "o" + hexID(n), "s-" + hexID(n)
		}
		b.Run("access", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				user, tenant := keys(i)
				a, err := db.Access(ctx, hostdb.UserKey{OAuthID: user}, hostdb.TenantKey{Slug: tenant})
				if err != nil || a.Membership == nil {
					b.Fatal(a, err)
				}
			}
		})
		b.Run("bare", func(b *testing.B) {
			stmt, err := db.Bare().Prepare(hostdb.AccessQueries()[[2]string{"oauth_id", "slug"}])
			must(b, err)
			defer stmt.Close()
			for i := 0; b.Loop(); i++ {
				user, tenant := keys(i)
				must(b, drain(stmt.Query(user, tenant)))
			}
		})
		b.Run("primarykey", func(b *testing.B) {
			stmt, err := db.Bare().Prepare("SELECT id, email, oauth_id FROM core_users WHERE id = $1")
			must(b, err)
			defer stmt.Close()
			for i := 0; b.Loop(); i++ {
				must(b, drain(stmt.Query(hexID(i*7919%tenants))))
			}
		})
	})
}

// drain scans every column of every row into the driver's own types.
func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, places := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		places[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(places...); err != nil {
			return err
		}
	}
	return rows.Err()
}

func BenchmarkInsertAudited(b *testing.B) {
	onEngines(b, func(b *testing.B, db *hostdb.DB) {
		for b.Loop() {
			must(b, db.Tenants.Insert(context.Background(), &hostdb.TenantCatalog{Name: "Acme", IsActive: true}))
		}
	})
}

func BenchmarkGet(b *testing.B) {
	onEngines(b, func(b *testing.B, db *hostdb.DB) {
		u := newUser(b, db)
		for b.Loop() {
			_, err := db.Users.Get(context.Background(), u.ID)
			must(b, err)
		}
	})
}

func BenchmarkClaimAndComplete(b *testing.B) {
	onEngines(b, func(b *testing.B, db *hostdb.DB) {
		for i := 0; b.Loop(); i++ {
			if i%10_000 == 0 {
				b.StopTimer()
				_, err := raw(b, db).Exec("DELETE FROM sys_jobs")
				must(b, err)
				bulkJobs(b, db, 10_000, 40)
				b.StartTimer()
			}
			j, err := db.Jobs.Claim(context.Background(), "w", nil, time.Minute)
			must(b, err)
			must(b, db.Jobs.Complete(context.Background(), j))
		}
	})
}

// BenchmarkFeedPoll is one poll that finds nothing, from Wake to delivery.
func BenchmarkFeedPoll(b *testing.B) {
	onEngines(b, func(b *testing.B, db *hostdb.DB) {
		poll := hostdb.Poller(db)
		defer poll.Close()
		for b.Loop() {
			must(b, poll.Poll(context.Background()))
		}
	})
}

func BenchmarkSubscriptionRule(b *testing.B) {
	end := time.Now().Add(time.Hour)
	for _, status := range []string{"active", "trialing", "past_due"} {
		b.Run(fmt.Sprint(status), func(b *testing.B) {
			s := &hostdb.Subscription{Status: status, PaymentType: "subscription", TrialEnd: &end, CurrentPeriodEnd: &end}
			now := time.Now()
			for b.Loop() {
				if !s.ActiveAt(now, hostdb.DefaultGrace) {
					b.Fatal("denied")
				}
			}
		})
	}
}
