package tenantdb_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestOneCallersMadeUpTenantsDelayNobodysFirstLookup has one token ask for made-up tenants, thousands at
// once, with the host database 5 ms away, while members come for the first time.
func TestOneCallersMadeUpTenantsDelayNobodysFirstLookup(t *testing.T) {
	const flood = 3000
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	w.user("eve")
	members := w.crowd(acme, 10)
	cfg := w.config()
	var network *proxy
	cfg.Host, network = w.behindNetwork()
	mw := w.middleware(cfg)
	h := mw.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
	network.delay.Store(int64(2500 * time.Microsecond)) // each way
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for i := range flood {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do(h, request("eve", fmt.Sprintf("no-%d-%d", i, n)).WithContext(ctx))
			}
		})
	}
	eventually(t, func() bool { return mw.Stats().Misses > flood }) // they wait, and some have come again
	together(len(members), func(i int) {
		if rec := do(h, request(members[i].ID, "acme")); rec.Code != http.StatusOK {
			t.Errorf("a member's first request: %d %s", rec.Code, rec.Body)
		}
	})
}

// heard waits until a middleware has been told of all that was committed before now.
func heard(t *testing.T, mw *tenantdb.Middleware) {
	t.Helper()
	committed := time.Now()
	eventually(t, func() bool {
		now := time.Since(committed)
		since := mw.Stats().SincePoll
		return since >= 0 && now > since
	})
}

// TestOthersSignUpsTenantsAndMigrationsReloadNobody counts the lookups that follow what happens to others.
func TestOthersSignUpsTenantsAndMigrationsReloadNobody(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		const users, collisions = 500, 10 // of stripes, which cost a lookup each
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", w.user("bob"))
		members := w.crowd(acme, users)
		cfg := w.config()
		cfg.Tenant = tenantdb.Sources(tenantdb.FromHeader(header), tenantdb.FromSoleMembership())
		cfg.Cache.MaxAge, cfg.Cache.MaxStaleness, cfg.Cache.LoadTimeout = time.Hour, time.Minute, 10*time.Second
		mw := w.middleware(cfg)
		nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		sole, signedIn := mw.Handler(nothing), mw.Authenticated(nothing)
		requests := make([]*http.Request, users)
		for i, m := range members {
			requests[i] = request(m.ID, "")
		}
		ask := func() (loads uint64) {
			before := mw.Stats().Loads
			for _, r := range requests {
				for _, h := range []http.Handler{sole, signedIn} {
					if rec := do(h, r); rec.Code != http.StatusOK {
						t.Fatalf("%d %s", rec.Code, rec.Body)
					}
				}
			}
			return mw.Stats().Loads - before
		}
		heard(t, mw)
		if loads := ask(); loads < 2*users {
			t.Fatalf("%d lookups at first", loads)
		}
		for what, happens := range map[string]func(){
			"a sign-up": func() { w.user("new") },
			"a tenant's creation": func() {
				_, err := w.fleet.Provision(t.Context(), fleet.Spec{Slug: "third", OwnerID: w.user("carl").ID})
				must(t, err)
			},
			"a tenant's migration": func() { w.update(other, func(t *hostdb.TenantCatalog) { t.SchemaVersion = 7 }) },
			"another's membership": func() { w.member(ann, other, hostdb.RoleMember) },
		} {
			happens()
			heard(t, mw)
			if loads := ask(); loads > collisions {
				t.Errorf("%s: %d lookups of %d users", what, loads, users)
			}
		}
		w.update(acme, func(t *hostdb.TenantCatalog) { t.SchemaVersion = 7 }) // their own
		heard(t, mw)
		if loads := ask(); loads < 2*users {
			t.Errorf("their own tenant's migration: %d lookups of %d users", loads, users)
		}
	})
}

// TestASoleMembershipFollowsTheStatusOfEachTenantOfTheUser, and their memberships, without a change of the
// user.
func TestASoleMembershipFollowsTheStatusOfEachTenantOfTheUser(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, joe := w.user("ann"), w.user("joe")
		acme, globex := w.tenant("acme", ann), w.tenant("globex", ann)
		w.member(joe, acme, hostdb.RoleMember)
		cfg := w.config()
		cfg.Tenant = tenantdb.FromSoleMembership()
		cfg.Cache.MaxAge, cfg.Cache.MaxStaleness = time.Hour, time.Minute
		mw := w.middleware(cfg)
		h := mw.Handler(http.HandlerFunc(whoami))
		check := func(when string, want int, body string) {
			t.Helper()
			heard(t, mw)
			if rec := do(h, request("joe", "")); rec.Code != want || want == http.StatusOK && rec.Body.String() != body {
				t.Errorf("%s: %d %s; want %d %s", when, rec.Code, rec.Body, want, body)
			}
		}
		check("one tenant", 200, "acme")
		setStatus(hostdb.TenantProvisioning)(w, globex)
		joined := w.member(joe, globex, hostdb.RoleMember)
		check("another is being provisioned", 200, "acme")
		setStatus(hostdb.TenantActive)(w, globex)
		check("it is open", 400, "")
		setStatus(hostdb.TenantDropped)(w, acme)
		check("the first was dropped", 200, "globex")
		setStatus(hostdb.TenantActive)(w, acme)
		check("the first is back", 400, "")
		must(t, w.host.Memberships.Delete(t.Context(), joined.ID))
		check("they left the second", 200, "acme")
	})
}

// TestSlowQueriesOfTheProductDontHoldUpRequests takes every connection that the product's own queries on the
// host database may have.
func TestSlowQueriesOfTheProductDontHoldUpRequests(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		cfg := w.config()
		var err error
		cfg.Host, err = hostdb.OpenConfig(t.Context(), hostdb.Config{URL: hostdb.Secret(w.host.URI()), MaxConns: 2})
		must(t, err)
		defer cfg.Host.Close()
		cfg.Cache.LoadTimeout = 10 * time.Second
		mw := w.middleware(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		var held sync.WaitGroup
		defer held.Wait()
		defer cancel()
		busy := make(chan struct{}, 2)
		for range 2 {
			held.Go(func() {
				_ = cfg.Host.InTx(ctx, func(tx *hostdb.Tx) error {
					busy <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				})
			})
		}
		<-busy
		if w.engine == "postgres" { // SQLite has one writer
			<-busy
		}
		h := mw.Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("ann", "acme")); rec.Code != http.StatusOK {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}
