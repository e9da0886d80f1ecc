package tenantdb_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestScope_Check_asksTheGuardsAgain revokes, while a stream runs, what the guards required when it began.
func TestScope_Check_asksTheGuardsAgain(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		gold := &hostdb.PricingPlan{
			ID: "gold", Name: "Gold", TierLevel: 3, Features: []string{"sso", "export"},
		}
		must(t, w.host.Plans.Insert(t.Context(), gold))
		acme := w.tenant("acme", w.user("ann"))
		w.subscribe(acme, "gold")
		joes := w.member(w.user("joe"), acme, hostdb.RoleAdmin)
		cfg := w.config()
		cfg.Cache.MaxStaleness, cfg.Cache.LoadTimeout = time.Second, 10*time.Second
		mw, outer := w.middleware(cfg), w.middleware(cfg)
		role := func(role string) func(*testing.T) {
			return func(t *testing.T) {
				joes.Role = role
				must(t, w.host.Memberships.Update(t.Context(), joes))
			}
		}
		plan := func(change func(*hostdb.PricingPlan)) func(*testing.T) {
			return func(t *testing.T) {
				row := *gold
				change(&row)
				must(t, w.host.Plans.Update(t.Context(), &row))
			}
		}
		whole := plan(func(*hostdb.PricingPlan) {})
		for _, test := range []struct {
			name        string
			guards      func(http.Handler) http.Handler
			take, again func(*testing.T)
		}{
			{"role", tenantdb.RequireRole(hostdb.RoleAdmin), role(hostdb.RoleMember), role(hostdb.RoleAdmin)},
			{"feature", tenantdb.RequireFeature("sso"), plan(func(p *hostdb.PricingPlan) {
				p.Features = []string{"export"}
			}), whole},
			{"tier", tenantdb.RequireTier(3), plan(func(p *hostdb.PricingPlan) { p.TierLevel = 2 }), whole},
			{"the first of three", func(h http.Handler) http.Handler {
				return mw.RequireRole(hostdb.RoleAdmin)(mw.RequireFeature("sso")(mw.RequireTier(1)(h)))
			}, role(hostdb.RoleMember), role(hostdb.RoleAdmin)},
			{"an outer scope's", func(h http.Handler) http.Handler {
				return tenantdb.RequireRole(hostdb.RoleAdmin)(outer.Handler(h))
			}, role(hostdb.RoleMember), role(hostdb.RoleAdmin)},
		} {
			streaming := func(rw http.ResponseWriter, r *http.Request) {
				s, _ := tenantdb.FromContext(r.Context())
				ctx, done := s.Detach()
				defer done()
				detached, _ := tenantdb.FromContext(ctx)
				scopes := []*tenantdb.Scope{s, detached}
				refreshed, err := s.Refresh(ctx)
				must(t, err)
				scopes = append(scopes, refreshed)
				for _, s := range scopes {
					must(t, s.Check(ctx))
				}
				test.take(t)
				eventually(t, func() bool { return errors.Is(s.Check(ctx), tenantdb.ErrForbidden) })
				for _, s := range scopes {
					if _, err := s.Refresh(ctx); !errors.Is(err, tenantdb.ErrForbidden) ||
						!errors.Is(s.Check(ctx), tenantdb.ErrForbidden) {
						t.Errorf("%s: Refresh = %v, Check = %v", test.name, err, s.Check(ctx))
					}
				}
				test.again(t)
				eventually(t, func() bool { return s.Check(ctx) == nil })
			}
			guarded := func(h http.Handler) http.Handler { return mw.Handler(test.guards(h)) }
			letIn(t, guarded, request("joe", "acme"), streaming)
			// Without the guards a demotion ends nothing.
			letIn(t, mw.Handler, request("joe", "acme"), func(_ http.ResponseWriter, r *http.Request) {
				s, _ := tenantdb.FromContext(r.Context())
				test.take(t)
				eventually(t, func() bool {
					return do(guarded(http.NotFoundHandler()), request("joe", "acme")).Code == 403
				})
				must(t, s.Check(r.Context()))
				test.again(t)
				eventually(t, func() bool {
					return do(guarded(http.NotFoundHandler()), request("joe", "acme")).Code == 404
				})
			})
		}
	})
}

// TestGuard_allocatesNothing serves requests behind three guards.
func TestGuard_allocatesNothing(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	onPlan(3, "sso")(w, acme)
	ctx, leave, err := w.middleware(w.config()).EnterAs(t.Context(), &tenantdb.Identity{
		Issuer: issuer, Subject: "ann",
	},
		hostdb.TenantKey{Slug: "acme"}, tenantdb.Rules{})
	must(t, err)
	defer leave()
	reached := 0
	h := tenantdb.RequireRole("member")(tenantdb.RequireFeature("sso")(tenantdb.RequireTier(3)(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))))
	r, rec := httptest.NewRequest("GET", "/", nil).WithContext(ctx), httptest.NewRecorder()
	var scopes []context.Context
	for range 101 { // each run needs a scope, as a guard is recorded in it
		s, _ := tenantdb.FromContext(ctx)
		detached, done := s.Detach()
		defer done()
		scopes = append(scopes, detached)
	}
	requests := make([]*http.Request, len(scopes))
	for i, ctx := range scopes {
		requests[i] = r.WithContext(ctx)
	}
	i := 0
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(rec, requests[i]); i++ }); n != 0 ||
		reached != 101 {
		t.Errorf("%v allocations, %d reached", n, reached)
	}
}

// TestGuard_checksItsArgumentWhenItIsBuilt: a misspelt role or feature panics where the routes are built,
// instead of refusing every request.
func TestGuard_checksItsArgumentWhenItIsBuilt(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	onPlan(3, "sso")(w, acme)
	cfg := w.config()
	lenient := w.middleware(cfg)
	cfg.Features = []string{"sso"}
	cfg.Roles = []string{"chief", "owner"}
	mw := w.middleware(cfg)
	mustPanic(t, `RequireRole("amdin")`, func() { lenient.RequireRole("amdin") })
	mustPanic(t, `"owner"`, func() { mw.RequireRole("admin") })
	mustPanic(t, `RequireFeature("ssso")`, func() { mw.RequireFeature("ssso") })
	mustPanic(t, `RequireFeature("")`, func() { lenient.RequireFeature("") })
	mustPanic(t, "negative", func() { mw.RequireTier(-1) })
	for name, guard := range map[string]func(http.Handler) http.Handler{
		"role": mw.RequireRole("owner"), "feature": mw.RequireFeature("sso"),
		"any feature": lenient.RequireFeature("sso"), "tier": mw.RequireTier(3),
	} {
		if rec := do(mw.Handler(guard(http.HandlerFunc(whoami))), request("ann", "acme")); rec.Code != 200 {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	for name, guard := range map[string]func(http.Handler) http.Handler{
		"role": mw.RequireRole("chief"), "feature": lenient.RequireFeature("other"),
		"tier": mw.RequireTier(4),
	} {
		if rec := do(mw.Handler(guard(http.HandlerFunc(whoami))), request("ann", "acme")); rec.Code != 403 {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
}
