package tenantdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestResolver_floodOfUnknownTenantsDelaysNobody has one caller ask for thousands of unknown tenants at once,
// with the host database 5 ms away, while members come for the first time.
func TestResolver_floodOfUnknownTenantsDelaysNobody(t *testing.T) {
	flood := uint64(3000)
	if underRace { // the detector makes the flood itself too slow for a member's lookup
		flood /= 5
	}
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	w.user("eve")
	members := w.crowd(acme, 10)
	cfg := w.config()
	var network *proxy
	cfg.Host, network = w.behindNetwork()
	mw := w.middleware(cfg)
	h := mw.Handler(emptyHandler)
	feedStarted(t, mw)
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
	eventually(t, func() bool { return mw.Stats().Misses > flood }) // they wait, and some have asked again
	together(len(members), func(i int) {
		if rec := do(h, request(members[i].ID, "acme")); rec.Code != http.StatusOK {
			t.Errorf("a member's first request: %d %s", rec.Code, rec.Body)
		}
	})
}

// heard waits until a middleware has been told of everything that was committed before the call.
func heard(t *testing.T, mw *tenantdb.Middleware) {
	t.Helper()
	committed := time.Now()
	eventually(t, func() bool {
		now := time.Since(committed)
		since := mw.Stats().SincePoll
		return since >= 0 && now > since
	})
}

// TestResolver_changesOfOthersReloadNothing counts the lookups after changes that concern others.
func TestResolver_changesOfOthersReloadNothing(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		const users, collisions = 500, 10 // of stripes; each costs a lookup
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", w.user("bob"))
		members := w.crowd(acme, users)
		cfg := w.config()
		cfg.Tenant = tenantdb.Sources(tenantdb.FromHeader(header), tenantdb.FromSoleMembership())
		cfg.Cache.MaxAge, cfg.Cache.MaxStaleness, cfg.Cache.LoadTimeout = time.Hour, time.Minute,
			10*time.Second
		mw := w.middleware(cfg)
		sole, signedIn := mw.Handler(emptyHandler), mw.Authenticated(emptyHandler)
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
				_, err := w.fleet.Provision(t.Context(), fleet.Spec{
					Slug: "third", OwnerID: w.user("carl").ID,
				})
				must(t, err)
			},
			"a tenant's migration": func() {
				w.update(other, func(t *hostdb.TenantCatalog) { t.SchemaVersion = 7 })
			},
			"another's membership": func() { w.member(ann, other, hostdb.RoleMember) },
		} {
			happens()
			heard(t, mw)
			if loads := ask(); loads > collisions {
				t.Errorf("%s: %d lookups of %d users", what, loads, users)
			}
		}
		w.update(acme, func(t *hostdb.TenantCatalog) { t.SchemaVersion = 7 }) // their own tenant
		heard(t, mw)
		if loads := ask(); loads < 2*users {
			t.Errorf("their own tenant's migration: %d lookups of %d users", loads, users)
		}
	})
}

// TestResolver_soleMembershipFollowsEachTenantsStatus changes tenants and memberships, but not the user.
func TestResolver_soleMembershipFollowsEachTenantsStatus(t *testing.T) {
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
			if rec := do(h, request("joe", "")); rec.Code != want || want == http.StatusOK &&
				rec.Body.String() != body {
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

// TestResolver_slowQueriesOfTheProductDelayNoRequest takes every connection that the product's own queries
// may have on the host database.
func TestResolver_slowQueriesOfTheProductDelayNoRequest(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		cfg := w.config()
		var err error
		cfg.Host, err = hostdb.OpenConfig(t.Context(), hostdb.Config{
			URL: hostdb.Secret(w.host.URI()), MaxConns: 2,
		})
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

// TestResolver_reusedIdentityLeadsToItsOwnFacts uses one cached token in two tenants, in two products with a
// host database each, and with an authenticator that makes another caller of a copy of its identity.
func TestResolver_reusedIdentityLeadsToItsOwnFacts(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, bob := w.user("ann"), w.user("bob")
		w.tenant("acme", ann)
		w.tenant("other", bob)
		w.tenant("both", ann)
		elsewhere := newWorld(t, w.engine, tenantdb.PoolConfig{})
		elsewhere.tenant("acme", elsewhere.user("eve"))
		elsewhere.tenant("there", elsewhere.user("ann"))

		cfg := w.config()
		asBob := cfg
		asBob.Authenticator = authFunc(func(r *http.Request) (*tenantdb.Identity, error) {
			id, err := cfg.Authenticator.Authenticate(r)
			if err != nil {
				return nil, err
			}
			other := *id
			other.Subject = "bob"
			return &other, nil
		})
		there := elsewhere.config()
		there.Authenticator = cfg.Authenticator
		serving := func(mw *tenantdb.Middleware) http.Handler {
			feedStarted(t, mw) // entries from before that are dropped
			return mw.Handler(http.HandlerFunc(whoami))
		}
		here, copied, far := serving(w.middleware(cfg)), serving(w.middleware(asBob)),
			serving(elsewhere.middleware(there))

		type visit struct {
			h      http.Handler
			tenant string
			want   int
		}
		visits := []visit{
			{here, "acme", 200}, {here, "both", 200}, {here, "other", 403}, {here, "there", 403},
			{copied, "acme", 403}, {copied, "other", 200}, {copied, "both", 403},
			{far, "acme", 403}, {far, "there", 200}, {far, "both", 403},
		}
		pay := func(v visit) {
			if rec := do(v.h, request("ann", v.tenant)); rec.Code != v.want || v.want == 200 &&
				rec.Body.String() != v.tenant {
				t.Errorf("%s: %d %s, want %d", v.tenant, rec.Code, rec.Body, v.want)
			}
		}
		for _, before := range visits {
			for _, after := range visits {
				pay(before)
				pay(after)
			}
		}
		together(8, func(int) {
			for range 100 {
				pay(visits[rand.IntN(len(visits))])
			}
		})
	})
}

func TestSource_soleMembershipIsAskedLast(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, joe := w.user("ann"), w.user("joe")
		acme, globex := w.tenant("acme", ann), w.tenant("globex", ann)
		w.member(joe, acme, hostdb.RoleMember)
		w.user("eve")
		cfg := w.config()
		cfg.Tenant = tenantdb.Sources(tenantdb.FromHeader(header), tenantdb.FromSoleMembership())
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		for _, test := range []struct {
			user, tenant, want string
			status             int
		}{
			{"joe", "", "acme", 200}, {"joe", "globex", "", 403}, {"ann", "", "", 400},
			{"ann", "globex", "globex", 200}, {"eve", "", "", 400},
		} {
			rec := do(h, request(test.user, test.tenant))
			if rec.Code != test.status || test.status == 200 && rec.Body.String() != test.want {
				t.Errorf("%s in %q: %d %s; want %d %s", test.user, test.tenant, rec.Code, rec.Body,
					test.status, test.want)
			}
		}
		must(t, w.fleet.Drop(t.Context(), globex.ID))
		eventually(t, func() bool { return do(h, request("ann", "")).Body.String() == "acme" })
	})
}

func TestSource_pathValueNotMatchedYetIsNoSoleMembership(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ann, joe := w.user("ann"), w.user("joe")
	w.member(joe, w.tenant("acme", ann), hostdb.RoleMember)
	w.tenant("globex", ann)
	cfg := w.config()
	cfg.Tenant = tenantdb.Sources(tenantdb.FromPathValue("tenant"), tenantdb.FromSoleMembership())
	mw := w.middleware(cfg)
	inside := http.NewServeMux()
	inside.Handle("GET /t/{tenant}/me", mw.Handler(http.HandlerFunc(whoami)))
	inside.Handle("GET /me", mw.Handler(http.HandlerFunc(whoami)))
	outside := http.NewServeMux()
	outside.HandleFunc("GET /t/{tenant}/me", whoami)
	halfway := http.NewServeMux()
	halfway.Handle("GET /t/", mw.Handler(outside))
	rest := http.NewServeMux()
	rest.Handle("GET /{rest...}", mw.Handler(outside))
	for _, test := range []struct {
		name   string
		h      http.Handler
		path   string
		status int
	}{
		{"inside, named", inside, "/t/globex/me", 403}, {"inside, own", inside, "/t/acme/me", 200},
		{"inside, not named", inside, "/me", 200},
		{"outside", mw.Handler(outside), "/t/globex/me", 400}, {"a subtree's", halfway, "/t/globex/me", 400},
		{"the rest's", rest, "/t/globex/me", 400},
	} {
		r := request("joe", "")
		r.URL.Path = test.path
		if rec := do(test.h, r); rec.Code != test.status {
			t.Errorf("%s: %d %s; want %d", test.name, rec.Code, rec.Body, test.status)
		}
	}
}
