package tenantdb_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

// TestResolver_revocationBoundHoldsDuringAFailover has a host database with two hosts. The primary hangs,
// dies or is cut off, the standby is promoted, and members are removed there. The process that had admitted
// them admits none after the bound, not even when the old primary is back and takes writes because nobody
// fenced it.
func TestResolver_revocationBoundHoldsDuringAFailover(t *testing.T) {
	const bound, members = 3 * time.Second, 6
	for name, fault := range map[string]func(*testing.T, *pgtest.Server, *proxy) (back func()){
		"hangs": func(t *testing.T, s *pgtest.Server, _ *proxy) func() { return s.Hang(t) },
		"dies": func(t *testing.T, s *pgtest.Server, _ *proxy) func() {
			s.Kill()
			return func() { must(t, s.Start()) }
		},
		"is cut off": func(_ *testing.T, _ *pgtest.Server, network *proxy) func() {
			network.hang()
			return network.mend
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t)
			direct := primary.Database(t)
			first, err := hostdb.Open(t.Context(), direct)
			must(t, err)
			w := &world{t: t, engine: "sqlite", host: first, clock: tenantdbtest.NewClock(noon)}
			w.pool = faultPool(t, tenantdb.PoolConfig{})
			acme := &hostdb.TenantCatalog{
				Name: "acme", Slug: "acme", DBURL: "postgres://nobody@127.0.0.1:1/none",
				Status: hostdb.TenantActive, IsActive: true,
				PlanTier: "free",
			}
			must(t, first.Tenants.Insert(t.Context(), acme))
			w.member(w.user("ann"), acme, hostdb.RoleOwner)
			crowd := w.crowd(acme, members)
			must(t, first.Close())
			standby := primary.Standby(t)

			u, err := url.Parse(direct)
			must(t, err)
			database := u.Path[1:]
			network := newProxy(t, u.Host)
			other, err := url.Parse(standby.URL(database))
			must(t, err)
			u.Host = network.listener.Addr().String() + "," + other.Host
			w.host, err = hostdb.Open(t.Context(), u.String())
			must(t, err)
			t.Cleanup(func() { _ = w.host.Close() })
			mw := w.middleware(w.config())
			h := mw.Handler(emptyHandler)
			feedStarted(t, mw)
			for _, m := range crowd {
				eventually(t, func() bool { return do(h, request(m.ID, "acme")).Code == 200 })
			}

			back := fault(t, primary, network)
			standby.Promote(t)
			conn, err := pgx.Connect(t.Context(), standby.URL(database))
			must(t, err)
			defer conn.Close(context.Background())
			// late requests as a removed member until the bound has passed and some time longer.
			late := func(m *hostdb.Membership, for_ time.Duration) (last time.Duration) {
				committed := time.Now()
				for time.Since(committed) < for_ {
					asked := time.Since(committed)
					if do(h, request(m.ID, "acme")).Code == 200 {
						last = asked
					}
					<-time.After(10 * time.Millisecond)
				}
				return last
			}
			remove := func(m *hostdb.Membership) {
				_, err := conn.Exec(t.Context(), "DELETE FROM core_memberships WHERE id = $1", m.ID)
				must(t, err)
			}
			remove(crowd[0])
			during := late(crowd[0], bound+2*time.Second)
			back()
			remove(crowd[1])
			after := late(crowd[1], bound+time.Second)
			t.Logf("last let in %v after a removal during the failover, %v after one beside the old primary",
				during, after)
			if max(during, after) > bound {
				t.Errorf("let in %v and %v after the commit, the bound is %v", during, after, bound)
			}
			if rec := do(h, request(crowd[0].ID, "acme")); rec.Code == 200 {
				t.Error("who was removed is in again, beside the old primary")
			}
			eventually(t, func() bool { return do(h, request(crowd[members-1].ID, "acme")).Code == 200 })
		})
	}
}
