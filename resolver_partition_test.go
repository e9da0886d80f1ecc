package tenantdb_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestResolver_revocationDuringAPartitionEndsAccessInTime removes members while the process that serves them
// can't reach the host database. They are admitted for MaxStaleIfDown at most. The other members are admitted
// at least until the cut has lasted as long.
func TestResolver_revocationDuringAPartitionEndsAccessInTime(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*proxy){"connections refused": (*proxy).reset,
		"nothing gets through": (*proxy).hang} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "postgres", tenantdb.PoolConfig{})
			acme := w.tenant("acme", w.user("ann"))
			members := w.crowd(acme, 40)
			removed := members[:20]
			cfg := w.config()
			var network *proxy
			cfg.Host, network = w.behindNetwork()
			cfg.Cache = tenantdb.CacheConfig{
				MaxStaleness: 200 * time.Millisecond, MaxStaleIfDown: 4 * time.Second,
				LoadTimeout: 400 * time.Millisecond,
			}
			mw := w.middleware(cfg)
			h := mw.Handler(emptyHandler)
			feedStarted(t, mw)
			for _, m := range members {
				eventually(t, func() bool { return do(h, request(m.ID, "acme")).Code == 200 })
			}
			cut(network)
			began := time.Now()
			committed := make([]time.Time, len(removed))
			for i, m := range removed {
				committed[i] = time.Now() // or slightly later
				must(t, w.host.Memberships.Delete(t.Context(), m.ID))
			}
			var mu sync.Mutex
			// of removed members since the commit; of the others since the cut
			var lastIn, firstOut time.Duration
			together(len(members), func(i int) {
				pause := time.NewTicker(20 * time.Millisecond)
				defer pause.Stop()
				for {
					asked := time.Now()
					rec := do(h, request(members[i].ID, "acme"))
					mu.Lock()
					switch {
					case rec.Code == 200 && i < len(removed):
						lastIn = max(lastIn, asked.Sub(committed[i]))
					case rec.Code == 503 && i >= len(removed) &&
						(firstOut == 0 || time.Since(began) < firstOut):
						firstOut = time.Since(began)
					case rec.Code != 200 && rec.Code != 503:
						t.Errorf("%d %s", rec.Code, rec.Body)
					}
					mu.Unlock()
					if rec.Code != 200 {
						return
					}
					<-pause.C
				}
			})
			if lastIn == 0 || lastIn > cfg.Cache.MaxStaleIfDown {
				t.Errorf("removed members were let in until %v after the commit, the bound is %v", lastIn,
					cfg.Cache.MaxStaleIfDown)
			}
			if firstOut < cfg.Cache.MaxStaleIfDown-time.Second {
				t.Errorf("a member was refused %v after the cut; known facts serve for %v", firstOut,
					cfg.Cache.MaxStaleIfDown)
			}
			t.Logf("removed: last admitted %v after the commit; others: first refused %v after the cut",
				lastIn, firstOut)
			network.mend()
			for i, m := range members {
				want := map[bool]int{true: 403, false: 200}[i < len(removed)]
				eventually(t, func() bool { return do(h, request(m.ID, "acme")).Code == want })
			}
		})
	}
}

// TestResolver_recoveryIsNoStampede restores the host database while hundreds of callers, whose facts are all
// too old, ask at once. A lock holds up the lookups, and the server's list of queries shows how many run
// together.
func TestResolver_recoveryIsNoStampede(t *testing.T) {
	t.Parallel()
	const maxLoads = 3
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	members := w.crowd(acme, 300)
	cfg := w.config()
	var network *proxy
	cfg.Host, network = w.behindNetwork()
	cfg.Cache = tenantdb.CacheConfig{
		MaxStaleness: 4 * time.Second, MaxStaleIfDown: 4 * time.Second, LoadTimeout: time.Minute,
		MaxLoads: maxLoads,
	}
	mw := w.middleware(cfg)
	h := mw.Handler(emptyHandler)
	feedStarted(t, mw)
	for _, m := range members {
		if rec := do(h, request(m.ID, "acme")); rec.Code != 200 {
			t.Fatalf("before the cut: %d %s", rec.Code, rec.Body)
		}
	}
	network.reset()
	// the newest facts
	eventually(t, func() bool { return do(h, request(members[len(members)-1].ID, "acme")).Code == 503 })
	// otherwise the first poll would confirm all facts
	w.update(acme, func(t *hostdb.TenantCatalog) { t.Name = "Acme Inc." })

	conn, err := pgx.Connect(t.Context(), w.host.URI())
	must(t, err)
	defer conn.Close(t.Context())
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE core_memberships IN ACCESS EXCLUSIVE MODE")
	must(t, err)
	network.mend()
	before := mw.Stats().Loads
	var answered sync.WaitGroup
	var mu sync.Mutex
	codes := make(map[int]int)
	for _, m := range members {
		answered.Go(func() {
			rec := do(h, request(m.ID, "acme"))
			mu.Lock()
			defer mu.Unlock()
			codes[rec.Code]++
		})
	}
	var seen []int
	eventually(t, func() bool { // the lookups have arrived, and their number was stable 20 times
		var n int
		must(t, tx.QueryRow(t.Context(),
			"SELECT pg_stat_clear_snapshot() IS NULL, (SELECT count(*) FROM pg_stat_activity "+
				"WHERE datname = current_database() AND wait_event_type = 'Lock')").Scan(nil, &n))
		seen = append(seen, n)
		return n >= maxLoads && len(seen) > 20 && !slices.ContainsFunc(seen[len(seen)-20:], func(k int) bool {
			return k != n
		})
	})
	if most := slices.Max(seen); most != maxLoads {
		t.Errorf("%d lookups at once, MaxLoads is %d", most, maxLoads)
	}
	must(t, tx.Commit(t.Context()))
	answered.Wait()
	if codes[200] != len(members) {
		t.Errorf("answers after the recovery: %v", codes)
	}
	// Each caller needs one lookup, and another if the first came before the change was delivered.
	loads := mw.Stats().Loads - before
	t.Logf("%d lookups for %d callers, at most %d at once", loads, len(members), slices.Max(seen))
	if loads > uint64(2*len(members)) {
		t.Errorf("%d lookups for %d callers", loads, len(members))
	}
}
