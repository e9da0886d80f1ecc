package hostdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// often configures a feed that polls frequently and ignores notifications, so that the test doesn't depend
// on them.
func often(url string) hostdb.Config {
	return hostdb.Config{URL: hostdb.Secret(url), PollInterval: time.Millisecond, NoNotify: true}
}

// seldom configures a feed that polls only when it is notified.
func seldom(url string) hostdb.Config {
	return hostdb.Config{URL: hostdb.Secret(url), PollInterval: time.Hour}
}

// event is what a loop over Changes yields.
type event struct {
	delivery hostdb.Delivery
	err      error
}

// listen reads the feed until the test ends. It returns after the first delivery.
func listen(t testing.TB, db *hostdb.DB) chan event {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan event)
	var wg sync.WaitGroup
	wg.Go(func() {
		for d, err := range db.Changes(ctx) {
			select {
			case events <- event{d, err}:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	if first := next(t, events); first.err != nil || !first.delivery.Reset {
		t.Fatalf("the first delivery is %+v, want a Reset", first)
	}
	return events
}

// next returns the next event.
func next(t testing.TB, events chan event) event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("the feed delivered nothing for 20 s")
		return event{}
	}
}

// until reads deliveries until done returns true for all changes so far.
func until(t testing.TB, events chan event, done func(all []hostdb.Change, d hostdb.Delivery) bool) {
	t.Helper()
	var all []hostdb.Change
	for {
		e := next(t, events)
		if e.err != nil {
			t.Fatal(e.err)
		}
		all = append(all, e.delivery.Changes...)
		if done(all, e.delivery) {
			return
		}
	}
}

// wantChanges waits for exactly these changes, in any order.
func wantChanges(t testing.TB, events chan event, want ...hostdb.Change) {
	t.Helper()
	until(t, events, func(all []hostdb.Change, _ hostdb.Delivery) bool {
		if len(all) < len(want) {
			return false
		}
		missing := map[hostdb.Change]int{}
		for _, c := range want {
			missing[c]++
		}
		for _, c := range all {
			missing[c]--
		}
		for c, n := range missing {
			if n != 0 {
				t.Fatalf("delivered %v, want %v (%v)", all, want, c)
			}
		}
		return true
	})
}

func TestChanges_deliverEveryKind(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, often(place(t)))
			events, ctx := listen(t, db), t.Context()
			u, tn := newUser(t, db), newTenant(t, db)
			user, tenant := hostdb.Change{Kind: hostdb.ChangeUser, UserID: u.ID},
				hostdb.Change{Kind: hostdb.ChangeTenant, TenantID: tn.ID}
			wantChanges(t, events, user, tenant)
			m := newMember(t, db, u, tn, hostdb.RoleOwner) // counting the owner doesn't change the tenant
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeMembership, UserID: u.ID,
				TenantID: tn.ID})
			s := &hostdb.Subscription{TenantID: tn.ID}
			must(t, db.Subscriptions.Insert(ctx, s))
			must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: "pro", Name: "Pro"}))
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeSubscription, TenantID: tn.ID},
				hostdb.Change{Kind: hostdb.ChangePlan, PlanID: "pro"})
			must(t, db.Users.RecordLogin(ctx, u.ID)) // isn't delivered
			u.PasswordHash = "new"
			must(t, db.Users.Update(ctx, u)) // isn't delivered
			other := newTenant(t, db)
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeTenant, TenantID: other.ID})
			s.TenantID = other.ID
			must(t, db.Subscriptions.Update(ctx, s))
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeSubscription, TenantID: tn.ID},
				hostdb.Change{Kind: hostdb.ChangeSubscription, TenantID: other.ID})
			tn.Status = hostdb.TenantDropped
			must(t, db.Tenants.Update(ctx, tn))
			must(t, db.Memberships.Delete(ctx, m.ID))
			wantChanges(t, events, tenant,
				hostdb.Change{Kind: hostdb.ChangeMembership, UserID: u.ID, TenantID: tn.ID})
			must(t, db.Tenants.Delete(ctx, tn.ID))
			must(t, db.Users.Delete(ctx, u.ID))
			wantChanges(t, events, user, tenant)
		})
	}
}

func TestChanges_deliverThoseOfOtherPrograms(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, often(url))
			u := newUser(t, db)
			events, pool, id := listen(t, db), raw(t, db), hostdb.NewID()
			_, err := pool.Exec("UPDATE core_users SET id = '" + id + "' WHERE id = '" + u.ID + "'")
			must(t, err)
			wantChanges(t, events, hostdb.Change{Kind: "user", UserID: u.ID},
				hostdb.Change{Kind: "user", UserID: id})
			if name != "postgres" {
				return
			}
			tx, err := pool.Begin()
			must(t, err)
			defer tx.Rollback()
			_, err = tx.Exec("SET LOCAL session_replication_role = replica")
			must(t, err)
			_, err = tx.Exec("DELETE FROM core_users")
			must(t, err)
			must(t, tx.Commit())
			wantChanges(t, events, hostdb.Change{Kind: "user", UserID: id})
			_, err = pool.Exec("TRUNCATE core_pricing_plans")
			must(t, err)
			until(t, events, func(_ []hostdb.Change, d hostdb.Delivery) bool { return d.Reset })
		})
	}
}

// A commit of this process in SQLite, and a NOTIFY in PostgreSQL, arrive long before the next poll is due.
func TestChanges_wakeOnANotification(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := place(t)
			db := open(t, seldom(url))
			writer := db
			if name == "postgres" { // in another process
				writer = open(t, hostdb.Config{URL: hostdb.Secret(url)})
			}
			events := listen(t, db)
			for range 5 {
				tn := newTenant(t, writer)
				wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeTenant, TenantID: tn.ID})
			}
		})
	}
}

func TestDB_Wake_pollsAtOnce(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, seldom(place(t)))
			events := listen(t, db)
			var last time.Time
			for range 5 {
				before := time.Now()
				db.Wake()
				until(t, events, func(_ []hostdb.Change, d hostdb.Delivery) bool {
					if d.PolledAt.Before(last) {
						t.Fatal("time goes back")
					}
					last = d.PolledAt
					return !d.PolledAt.Before(before)
				})
			}
		})
	}
}

// Eight writers commit in an order unrelated to that of their ids.
func TestChanges_deliverWhatIsCommitted(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, often(url))
			events, pool := listen(t, db), raw(t, db)
			writes := 150
			if testing.Short() || underRace {
				writes = 40
			}
			var (
				wg        sync.WaitGroup
				mu        sync.Mutex
				committed = map[string]bool{}
				undone    = map[string]bool{}
			)
			for w := range 8 {
				wg.Go(func() {
					random := rand.New(rand.NewPCG(uint64(w), 7))
					for range writes {
						ids, keep, err := writeAtRandom(pool, random, name == "file")
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						for _, id := range ids {
							(map[bool]map[string]bool{true: committed, false: undone})[keep][id] = true
						}
						mu.Unlock()
					}
				})
			}
			finished := make(chan struct{})
			go func() {
				wg.Wait()
				db.Wake()
				close(finished)
			}()
			delivered := map[string]int{}
			ended := time.Time{}
			until(t, events, func(_ []hostdb.Change, d hostdb.Delivery) bool {
				for _, c := range d.Changes {
					delivered[c.UserID]++
				}
				select {
				case <-finished:
					if ended.IsZero() {
						ended = time.Now()
					}
				default:
				}
				return !ended.IsZero() && d.PolledAt.After(ended)
			})
			for id := range committed {
				if delivered[id] != 1 {
					t.Errorf("a committed change was delivered %d times", delivered[id])
				}
			}
			for id := range undone {
				if delivered[id] != 0 {
					t.Error("a change that was rolled back was delivered")
				}
			}
			if len(delivered) != len(committed) {
				t.Errorf("%d changes delivered, %d committed", len(delivered), len(committed))
			}
		})
	}
}

// writeAtRandom writes a few users in one transaction, some inside savepoints, and commits or rolls back.
func writeAtRandom(pool *sql.DB, random *rand.Rand, immediate bool) (ids []string, keep bool, err error) {
	conn, err := pool.Conn(context.Background())
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	run := func(text string) {
		if err == nil {
			_, err = conn.ExecContext(context.Background(), text)
		}
	}
	run(map[bool]string{true: "BEGIN IMMEDIATE", false: "BEGIN"}[immediate])
	for range 1 + random.IntN(3) {
		id := hostdb.NewID()
		ids = append(ids, id)
		run(fmt.Sprintf("INSERT INTO core_users (id, email) VALUES ('%s', '%s')", id, id))
		if random.IntN(2) == 0 {
			run("SAVEPOINT a")
			run(fmt.Sprintf("INSERT INTO core_users (id, email) VALUES ('%s', 'x%s')", hostdb.NewID(), id))
			run("ROLLBACK TO a")
		}
		if !immediate {
			run(fmt.Sprintf("SELECT pg_sleep(%f)", random.Float64()/200)) // lets others overtake
		}
	}
	keep = random.IntN(4) > 0
	run(map[bool]string{true: "COMMIT", false: "ROLLBACK"}[keep])
	return ids, keep, err
}

func TestChanges_reportAFailedPollAndLoseNothing(t *testing.T) {
	server := pgtest.Start(t)
	db := open(t, often(server.Database(t)))
	events := listen(t, db)
	server.Kill()
	for {
		if e := next(t, events); e.err != nil {
			if !errors.Is(e.err, hostdb.ErrUnavailable) {
				t.Fatalf("error = %v, want ErrUnavailable", e.err)
			}
			break
		}
	}
	must(t, server.Start())
	id := hostdb.NewID()
	_, err := raw(t, db).Exec("INSERT INTO core_users (id, email) VALUES ('" + id + "', 'a')")
	must(t, err)
	for {
		e := next(t, events)
		if e.err == nil && (e.delivery.Reset || len(e.delivery.Changes) == 1) {
			return
		}
	}
}

func TestChanges_reportAReplacedFile(t *testing.T) {
	url := fileURL(t)
	db := open(t, often(url))
	events := listen(t, db)
	path := strings.TrimPrefix(url, "sqlite:")
	must(t, os.Rename(path, path+".old"))
	for {
		if e := next(t, events); e.err != nil {
			if !errors.Is(e.err, hostdb.ErrUnavailable) {
				t.Fatalf("error = %v, want ErrUnavailable", e.err)
			}
			break
		}
	}
	// Statements on the old file are refused.
	plan := &hostdb.PricingPlan{ID: "pro", Name: "Pro"}
	_, access := db.Access(t.Context(), hostdb.UserKey{OAuthID: "x"}, hostdb.TenantKey{Slug: "acme"})
	_, begin := db.Begin(t.Context())
	for what, err := range map[string]error{"a write": db.Plans.Insert(t.Context(), plan), "access": access,
		"a transaction": begin} {
		if !errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("%s: error = %v, want ErrUnavailable", what, err)
		}
	}
	must(t, os.Rename(path+".old", path)) // the original file comes back
	until(t, events, func(_ []hostdb.Change, d hostdb.Delivery) bool { return true })
	must(t, db.Plans.Insert(t.Context(), plan))
}

func TestChanges_resetAfterTooMany(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, often(url))
			events := listen(t, db)
			text := "INSERT INTO core_pricing_plans (id, name) SELECT 'p' || i, 'x' " +
				"FROM generate_series(1, 10001) i"
			if name == "file" {
				text = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)
					INSERT INTO core_pricing_plans (id, name) SELECT 'p' || i, 'x' FROM n`
			}
			_, err := raw(t, db).Exec(text)
			must(t, err)
			until(t, events, func(all []hostdb.Change, d hostdb.Delivery) bool {
				if len(all) > 0 {
					t.Fatalf("%d changes without a Reset", len(all))
				}
				return d.Reset
			})
		})
	}
}

func TestChanges_shareOnePoller(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			db := open(t, often(place(t)))
			before := goleak.IgnoreCurrent()
			var wg sync.WaitGroup
			for i := range 5 {
				wg.Go(func() {
					n := 0
					for _, err := range db.Changes(context.Background()) {
						if err != nil {
							t.Error(err)
						}
						if n++; n > i {
							break
						}
					}
				})
			}
			wg.Wait()
			if err := goleak.Find(before,
				goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChanges_endWithClose(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		started, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			first := true
			for range db.Changes(context.Background()) {
				if first {
					close(started)
					first = false
				}
			}
		}()
		<-started
		must(t, db.Close())
		<-ended
	})
}

func TestChanges_deliverEverythingToASlowSubscriber(t *testing.T) {
	db := open(t, seldom("sqlite::memory:"))
	want := map[string]bool{}
	for d, err := range db.Changes(t.Context()) {
		must(t, err)
		for _, c := range d.Changes {
			delete(want, c.TenantID)
		}
		if d.Reset {
			for range 20 { // each commit is polled while this loop runs
				want[newTenant(t, db).ID] = true
			}
		}
		if len(want) == 0 {
			return
		}
	}
}

func TestChanges_beginWithAResetForALateSubscriber(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, often(place(t)))
			early := listen(t, db)
			newTenant(t, db)
			late := listen(t, db) // fails unless the first delivery is a Reset
			tn := newTenant(t, db)
			for _, events := range []chan event{early, late} {
				until(t, events, func(all []hostdb.Change, _ hostdb.Delivery) bool {
					for _, c := range all {
						if c.TenantID == tn.ID {
							return true
						}
					}
					return false
				})
			}
		})
	}
}

// Pruning waits for a lock that is never released. The feed reports it and continues.
func TestChanges_continueWhilePruningHangs(t *testing.T) {
	t.Parallel()
	db := open(t, often(postgresURL(t)))
	tx, err := raw(t, db).Begin()
	must(t, err)
	defer tx.Rollback()
	_, err = tx.Exec("LOCK TABLE host_feed_marks IN ACCESS EXCLUSIVE MODE")
	must(t, err)
	events := listen(t, db)
	user := newUser(t, db)
	late := time.After(10 * time.Second)
	for failed := false; ; {
		select {
		case e := <-events:
			failed = failed || errors.Is(e.err, hostdb.ErrUnavailable)
			if len(e.delivery.Changes) == 1 && e.delivery.Changes[0].UserID == user.ID {
				if !failed {
					t.Error("pruning wasn't reported")
				}
				return
			}
		case <-late:
			t.Fatal("the change was not delivered within 10 s")
		}
	}
}
