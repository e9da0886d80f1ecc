package hostdb_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
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

// BenchmarkAccess compares the access query, on 100,000 tenants, 300,000 users and 500,000 memberships, with
// the same SQL run by the driver alone, with a select by primary key, and with its joins alone with one
// column. They alternate in short blocks, and medians are compared, so that a busy machine slows all of them
// equally.
func BenchmarkAccess(b *testing.B) {
	onEngines(b, func(b *testing.B, db *hostdb.DB) {
		const tenants, block = 100_000, 50
		crowd(b, db, tenants, 3*tenants, 5*tenants)
		bare, err := db.Bare().Prepare(db.AccessQueries()[[2]string{"oauth_id", "slug"}])
		must(b, err)
		defer bare.Close()
		key, err := db.Bare().Prepare("SELECT id, email, oauth_id FROM core_users WHERE id = $1")
		must(b, err)
		defer key.Close()
		text := db.AccessQueries()[[2]string{"oauth_id", "slug"}]
		floor, err := db.Bare().Prepare("SELECT s.id " + text[strings.Index(text, "FROM"):])
		must(b, err)
		defer floor.Close()
		ctx := context.Background()
		variants := []func(n int){
			func(n int) {
				a, err := db.Access(ctx, hostdb.UserKey{OAuthID: "o" + hexID(n)},
					hostdb.TenantKey{Slug: "s-" + hexID(n)})
				if err != nil || a.Membership == nil {
					b.Fatal(a, err)
				}
			},
			func(n int) { must(b, drain(bare.Query("o"+hexID(n), "s-"+hexID(n)))) },
			func(n int) { must(b, drain(key.Query(hexID(n)))) },
			func(n int) { must(b, drain(floor.Query("o"+hexID(n), "s-"+hexID(n)))) },
		}
		took := make([][]time.Duration, len(variants))
		for round := 0; b.Loop(); round++ {
			for k := range variants {
				k = (k + round) % len(variants)
				began := time.Now()
				for i := range block {
					variants[k]((round*block + i) * 7919 % tenants)
				}
				took[k] = append(took[k], time.Since(began)/block)
			}
		}
		for k := range took {
			slices.Sort(took[k])
		}
		median := func(k int) float64 { return float64(took[k][len(took[k])/2]) }
		b.ReportMetric(median(0), "access-ns")
		b.ReportMetric(median(1), "bare-ns")
		b.ReportMetric(median(2), "key-ns")
		b.ReportMetric(median(0)/median(1), "access/bare")
		b.ReportMetric(median(0)/median(2), "access/key")
		b.ReportMetric(median(3)/median(2), "joins/key")
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
			must(b, db.Tenants.Insert(context.Background(),
				&hostdb.TenantCatalog{Name: "Acme", IsActive: true}))
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

// BenchmarkFeedPoll measures a poll that finds nothing, from Wake to delivery.
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
			s := &hostdb.Subscription{Status: status, PaymentType: "subscription", TrialEnd: &end,
				CurrentPeriodEnd: &end}
			now := time.Now()
			for b.Loop() {
				if !s.ActiveAt(now, hostdb.DefaultGrace) {
					b.Fatal("denied")
				}
			}
		})
	}
}
