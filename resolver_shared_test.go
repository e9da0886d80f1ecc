package tenantdb_test

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"weak"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// scopes returns a function that requests the scope of a caller in a tenant.
func scopes(t *testing.T, mw *tenantdb.Middleware) func(subject, tenant string) *tenantdb.Scope {
	t.Helper()
	var scope *tenantdb.Scope
	h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		scope, _ = tenantdb.FromContext(r.Context())
	}))
	feedStarted(t, mw)
	return func(subject, tenant string) *tenantdb.Scope {
		t.Helper()
		scope = nil
		if rec := do(h, request(subject, tenant)); scope == nil {
			t.Fatalf("%s in %s: %d %s", subject, tenant, rec.Code, rec.Body)
		}
		return scope
	}
}

// TestResolver_factsShareEqualRows: members of a tenant share its row, tenants on a plan share the plan's
// row, and a change reaches all of them.
func TestResolver_factsShareEqualRows(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		gold := &hostdb.PricingPlan{ID: "gold", Name: "Gold", Features: []string{"sso", "export"}}
		must(t, w.host.Plans.Insert(t.Context(), gold))
		ann, bob := w.user("ann"), w.user("bob")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		w.member(bob, acme, hostdb.RoleMember)
		w.subscribe(acme, "gold")
		w.subscribe(other, "gold")
		mw := w.middleware(w.config())
		scope := scopes(t, mw)
		alike := func() (rows [3]any) {
			t.Helper()
			a, b, o := rowsOf(scope("ann", "acme")), rowsOf(scope("bob", "acme")),
				rowsOf(scope("ann", "other"))
			if a != b {
				t.Errorf("two copies of a tenant's rows:\n%+v\n%+v", a, b)
			}
			if a[0] == o[0] || a[1] == o[1] || a[2] != o[2] {
				t.Errorf("of another tenant the plan alone is the same:\n%+v\n%+v", a, o)
			}
			return a
		}
		before := alike()
		if ann := scope("ann", "acme"); ann.Plan == nil || !ann.HasFeature("export") {
			t.Fatalf("%+v", ann)
		}
		w.update(acme, func(c *hostdb.TenantCatalog) { c.Name = "Acme & Sons" })
		eventually(t, func() bool { return scope("bob", "acme").Tenant.Name == "Acme & Sons" })
		if after := alike(); after[0] == before[0] || after[2] != before[2] {
			t.Errorf("before and after the change:\n%+v\n%+v", before, after)
		}
		gold.Features = []string{"sso"}
		must(t, w.host.Plans.Update(t.Context(), gold))
		eventually(t, func() bool {
			return !scope("bob", "acme").HasFeature("export") && !scope("ann", "other").HasFeature("export")
		})
		alike()
	})
}

// rowsOf returns the rows in the cache that a scope was copied from: the tenant, the subscription and the
// plan.
func rowsOf(s *tenantdb.Scope) [3]any {
	access, subscription, plan := s.SharedBy()
	return [3]any{access.Tenant, subscription, plan}
}

// TestMiddleware_Close_letsTheCollectorFreeIt: nothing that outlives a middleware leads to it, whether it has
// cached shared rows or not.
func TestMiddleware_Close_letsTheCollectorFreeIt(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for tenant, status := range map[string]int{"none": 403, "acme": 200} {
		closed := func() weak.Pointer[tenantdb.Middleware] {
			mw, err := tenantdb.New(w.config()) // w.middleware would keep a reference
			must(t, err)
			if rec := do(mw.Handler(http.HandlerFunc(whoami)), request("ann", tenant)); rec.Code != status {
				t.Errorf("%s: %d %s; want %d", tenant, rec.Code, rec.Body, status)
			}
			must(t, mw.Close(t.Context()))
			return weak.Make(mw)
		}()
		eventually(t, func() bool {
			runtime.GC()
			return closed.Value() == nil
		})
	}
}

// TestResolver_forgetsUnusedRows fills a cache with room for one entry.
func TestResolver_forgetsUnusedRows(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ann := w.user("ann")
	cfg := w.config()
	cfg.Cache.Size = 1
	mw := w.middleware(cfg)
	scope := scopes(t, mw)
	for i := range 50 {
		slug := fmt.Sprintf("t%d", i)
		w.subscribe(w.tenant(slug, ann), "free")
		scope("ann", slug)
	}
	eventually(t, func() bool {
		runtime.GC()
		tenants, plans := mw.SharedRows()
		return tenants <= 2 && plans <= 2
	})
}

// TestResolver_membersOfATenantAreCheap measures the memory of a cached member, who shares the rows of the
// tenant.
func TestResolver_membersOfATenantAreCheap(t *testing.T) {
	const members, most = 500, 1200
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	w.subscribe(acme, "free")
	crowd := w.crowd(acme, members)
	cfg := w.config()
	// which remembers nothing
	cfg.Authenticator = authFunc(func(r *http.Request) (*tenantdb.Identity, error) {
		return &tenantdb.Identity{Subject: r.Header.Get("X-Member")}, nil
	})
	h := w.middleware(cfg).Handler(emptyHandler)
	enter := func(subject string) {
		r := request("", "acme")
		r.Header.Set("X-Member", subject)
		if rec := do(h, r); rec.Code != http.StatusOK {
			t.Fatal(rec.Code, rec.Body)
		}
	}
	enter("ann")
	before := heap()
	for _, m := range crowd {
		enter(m.ID)
	}
	each := (heap() - before) / members
	t.Logf("%d bytes each", each)
	if each > most {
		t.Errorf("%d bytes each; want at most %d", each, most)
	}
}
