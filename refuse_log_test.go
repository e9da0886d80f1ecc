package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// refusals are requests that are refused. Each has the fields that its line in the log has beside the common
// ones.
func refusals(w *world, ann, joe, eve *hostdb.GlobalUser, acme *hostdb.TenantCatalog) []refusalCase {
	open := func(c *hostdb.TenantCatalog) {
		c.Status, c.IsActive, c.PlanTier, c.SchemaVersion = hostdb.TenantActive, true, "free", 1
	}
	status := func(to string) func() {
		return func() { w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.Status = to }) }
	}
	asAnn := fields{"tenant_id": acme.ID, "tenant_slug": "acme", "user_id": ann.ID}
	subject := func(name string) fields { return fields{"issuer": issuer, "subject": name} }
	return []refusalCase{
		{name: "no credential", tenant: "acme", status: 401, reason: "no_credential", cause: "sign in first"},
		{name: "bad credential", auth: "Bearer x", tenant: "acme", status: 401, reason: "invalid_credential",
			cause: "not three segments"},
		{name: "no tenant", user: "ann", status: 400, reason: "no_tenant", cause: "names no tenant",
			more: subject("ann")},
		{name: "invalid tenant", user: "ann", tenant: "No!", status: 400, reason: "invalid_tenant",
			cause: "name is not valid", more: subject("ann")},
		{name: "unknown user", user: "nobody", tenant: "acme", status: 403, reason: "unknown_user",
			cause: "no such user",
			more:  with(subject("nobody"), fields{"tenant_id": acme.ID, "tenant_slug": "acme"})},
		{name: "unknown tenant", user: "ann", tenant: "nowhere", status: 403, reason: "unknown_tenant",
			cause: "no such tenant",
			more:  fields{"tenant_slug": "nowhere", "user_id": ann.ID}},
		{name: "no membership", user: "eve", tenant: "acme", status: 403, reason: "no_membership",
			cause: "no membership",
			more:  with(asAnn, fields{"user_id": eve.ID})},
		{name: "inactive membership", user: "joe", tenant: "acme", status: 403, reason: "membership_inactive",
			cause: "is_active is false",
			more:  with(asAnn, fields{"user_id": joe.ID})},
		{name: "suspended", set: status(hostdb.TenantSuspended), user: "ann", tenant: "acme", status: 403,
			reason: "tenant_suspended", cause: "suspended", more: asAnn},
		{name: "is_active false", set: func() {
			w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.IsActive = false })
		},
			user: "ann", tenant: "acme", status: 403, reason: "tenant_inactive", cause: "is_active is false",
			more: asAnn},
		{name: "maintenance", set: status(hostdb.TenantMaintenance), user: "ann", tenant: "acme", status: 503,
			reason: "tenant_maintenance", cause: "maintenance", more: asAnn},
		{name: "provisioning", set: status(hostdb.TenantProvisioning), user: "ann", tenant: "acme",
			status: 503, reason: "tenant_provisioning", cause: "provisioning", more: asAnn},
		{name: "dropped", set: status(hostdb.TenantDropped), user: "ann", tenant: "acme", status: 403,
			reason: "tenant_dropped", cause: "dropped", more: asAnn},
		{name: "schema", set: func() {
			w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.SchemaVersion = 0 })
		},
			user: "ann", tenant: "acme", status: 503, reason: "schema_too_old", cause: "older than",
			more: asAnn},
		{name: "no subscription", set: func() {
			w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.PlanTier = "pro" })
		},
			user: "ann", tenant: "acme", status: 402, reason: "no_subscription",
			cause: `the plan "pro" is not in FreePlans, and there is no subscription`, more: asAnn},
		{name: "lapsed", set: func() {
			w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.PlanTier = "pro" })
			must(w.t, w.host.Subscriptions.Insert(w.t.Context(), &hostdb.Subscription{
				TenantID: acme.ID, PlanTier: "pro",
				Status: hostdb.SubscriptionPastDue, PaymentType: hostdb.PaymentSubscription,
			}))
		}, user: "ann", tenant: "acme", status: 402, reason: "subscription_lapsed",
			cause: "the best subscription is past_due", more: asAnn},
		{name: "role", set: status(hostdb.TenantActive), path: "/admin", user: "ann", tenant: "acme",
			status: 403, reason: "role_missing", cause: "role root needed", more: asAnn},
		{name: "feature", path: "/sso", user: "ann", tenant: "acme", status: 403, reason: "feature_missing",
			cause: "feature sso needed", more: asAnn},
		{name: "tier", path: "/top", user: "ann", tenant: "acme", status: 403, reason: "tier_missing",
			cause: "tier 9 needed", more: asAnn},
		{name: "the handler's own error", path: "/broken", user: "ann", tenant: "acme", status: 500,
			reason: "internal", cause: `a "b" c`, more: asAnn},
		{name: "the host database's error", path: "/host", user: "ann", tenant: "acme", status: 503,
			reason: "host_unavailable", cause: "hostdb: unavailable", more: asAnn},
		{name: "an error of a skipped route", path: "/skipped", status: 503, reason: "busy",
			cause: "too much"},
	}
}

// refusalCase is a request that is refused.
type refusalCase struct {
	name                            string
	set                             func()
	auth, user, tenant, path, cause string
	status                          int
	reason                          string
	more                            fields
}

func TestLogger_saysWhyARequestIsRefused(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, joe, eve := w.user("ann"), w.user("joe"), w.user("eve")
		acme := w.tenant("acme", ann)
		membership := w.member(joe, acme, hostdb.RoleMember)
		membership.IsActive = false
		must(t, w.host.Memberships.Update(t.Context(), membership))
		var log lines
		cfg := w.config()
		cfg.Logger, cfg.MinSchemaVersion, cfg.Skip = log.logger(), 1, []string{"/skipped"}
		mw := w.middleware(cfg)
		mux := http.NewServeMux()
		mux.HandleFunc("GET /me", whoami)
		mux.Handle("GET /admin", tenantdb.RequireRole("root")(http.NotFoundHandler()))
		mux.Handle("GET /sso", tenantdb.RequireFeature("sso")(http.NotFoundHandler()))
		mux.Handle("GET /top", tenantdb.RequireTier(9)(http.NotFoundHandler()))
		fail := func(err error) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) { tenantdb.WriteError(rw, r, err) }
		}
		mux.HandleFunc("GET /broken", fail(errors.New(`a "b"`+"\n\tc")))
		mux.HandleFunc("GET /host", fail(fmt.Errorf("reading plans: %w", hostdb.ErrUnavailable)))
		mux.HandleFunc("GET /skipped", func(rw http.ResponseWriter, r *http.Request) {
			mw.WriteError(rw, r, tenantdb.ErrBusy)
		})
		h := mw.Handler(mux)
		bodies := map[string]string{}
		for _, c := range refusals(w, ann, joe, eve, acme) {
			if c.set != nil {
				c.set()
			}
			path := c.path
			if path == "" {
				path = "/me"
			}
			want := with(fields{
				"method": "GET", "route": "GET " + path, "host": "app.example.com", "reason": c.reason,
				"status": float64(c.status),
				"level":  "INFO", "msg": "request refused",
			}, c.more)
			if c.status >= 500 {
				want["level"], want["msg"] = "ERROR", "request failed"
			}
			var got fields
			eventually(t, func() bool { // until the change takes effect
				r := request(c.user, c.tenant)
				r.URL.Path = path
				if c.auth != "" {
					r.Header.Set("Authorization", c.auth)
				}
				r.RemoteAddr = c.name + ":1" // so that its line isn't left out
				rec := do(h, r)
				written := log.take(t)
				if rec.Code == 200 || len(written) == 0 || written[0]["reason"] != c.reason {
					return false
				}
				got = written[0]
				want["code"] = code(t, rec)
				if c.status == 403 && want["code"] == "not_member" {
					bodies[rec.Body.String()+fmt.Sprint(rec.Header())] = c.name
				}
				return true
			})
			cause, _ := got["cause"].(string)
			delete(got, "cause")
			delete(got, "left_out")
			if !strings.Contains(cause, c.cause) || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: cause %q\n got %v\nwant %v", c.name, cause, got, want)
			}
		}
		if len(bodies) != 1 {
			t.Errorf("what isn't told apart is answered in %d ways: %q", len(bodies), bodies)
		}
	})
}

func TestLogger_namesARouterThatHasNotMatchedYet(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.user("ann")
	var log lines
	cfg := w.config()
	cfg.Logger, cfg.Tenant = log.logger(), tenantdb.Sources(tenantdb.FromPathValue("tenant"),
		tenantdb.FromSoleMembership())
	mw := w.middleware(cfg)
	inside := http.NewServeMux()
	inside.Handle("GET /me", mw.Handler(http.HandlerFunc(whoami)))
	for reason, c := range map[string]struct {
		user string
		h    http.Handler
	}{
		"not_routed": {"ann", mw.Handler(http.HandlerFunc(whoami))}, "no_sole_membership": {"ann", inside},
		"unknown_user": {"nobody", inside},
	} {
		if rec := do(c.h, request(c.user, "")); rec.Code != 400 || code(t, rec) != "no_tenant" {
			t.Errorf("%s: %d %s", reason, rec.Code, rec.Body)
		}
		if got := log.take(t); len(got) != 1 || got[0]["reason"] != reason || got[0]["subject"] != c.user {
			t.Errorf("%s: logged %v", reason, got)
		}
	}
}

func TestLogger_receivesTheRequestsContext(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	type idKey struct{}
	var ids []any
	cfg := w.config()
	cfg.Logger = slog.New(handlerFunc(func(ctx context.Context, r slog.Record) {
		scope, _ := tenantdb.FromContext(ctx) // a log handler may call the library
		ids = append(ids, ctx.Value(idKey{}), scope != nil)
	}))
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tenantdb.WriteError(rw, r, tenantdb.ErrBusy)
	}))
	for id, tenant := range map[int]string{1: "acme", 2: "elsewhere"} {
		ids = nil
		r := request("ann", tenant)
		do(h, r.WithContext(context.WithValue(r.Context(), idKey{}, id)))
		if fmt.Sprint(ids) != fmt.Sprint([]any{id, id == 1}) {
			t.Errorf("the logger saw %v", ids)
		}
	}
}

func TestLogger_clientThatHasGoneIsDebug(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var log lines
	cfg := w.config()
	cfg.Logger = log.logger()
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tenantdb.WriteError(rw, r, fmt.Errorf("reading: %w", context.Canceled))
	}))
	for level, gone := range map[string]bool{"DEBUG": true, "ERROR": false} {
		ctx, cancel := context.WithCancel(t.Context())
		do(h, request("ann", "acme")) // cache its facts
		log.take(t)
		if gone {
			cancel()
		}
		do(h, request("ann", "acme").WithContext(ctx))
		if got := log.take(t); len(got) != 1 || got[0]["level"] != level {
			t.Errorf("gone %v: logged %v", gone, got)
		}
		cancel()
	}
}

func TestLogger_floodOfRefusalsIsCountedNotLogged(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	w.user("eve")
	var log lines
	cfg := w.config()
	cfg.Logger = log.logger()
	h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	for range 100 {
		do(h, request("eve", "acme"))
	}
	if got := log.take(t); len(got) != 5 {
		t.Errorf("%d lines for one caller's 100 refusals", len(got))
	}
	do(h, request("eve", "nowhere")) // another reason
	do(h, request("nobody", "acme")) // another caller
	if got := log.take(t); len(got) != 2 {
		t.Errorf("another reason and another caller have %d lines", len(got))
	}
	for i := range 20_000 { // each from its own address
		r := request("", "acme")
		r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)
		do(h, r)
	}
	if got := log.take(t); len(got) > 1024+5 {
		t.Errorf("%d lines for 20,000 callers", len(got))
	}
}

func TestLogger_clientsTextIsPrintableAndShort(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var log lines
	cfg := w.config()
	cfg.Logger = log.logger()
	mw := w.middleware(cfg)
	hostile := "a\x1b[2J\u009b31m\u202e\u2066\u200f\xff\n\t" + strings.Repeat("x", 100_000)
	h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tenantdb.WriteError(rw, r, errors.New(hostile))
	}))
	r := request("ann", "acme")
	r.Host, r.Method = hostile, hostile
	do(h, r)
	do(h, request(hostile, "acme"))
	got := fmt.Sprint(log.take(t))
	if len(got) > 10_000 || strings.ContainsAny(got, "\x1b\u009b\u202e\u2066\u200f\n\t") ||
		!strings.Contains(got, "<U+202E>") {
		t.Errorf("%d bytes: %.2000q", len(got), got)
	}
}

func BenchmarkMiddleware_refusal(b *testing.B) {
	w := newWorld(b, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	w.user("eve")
	cfg := w.config()
	cfg.Logger = slog.New(slog.DiscardHandler)
	for name, logger := range map[string]*slog.Logger{
		"silent": slog.New(slog.DiscardHandler), "logged": new(lines).logger(),
	} {
		cfg.Logger = logger
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		for who, r := range map[string]*http.Request{
			"anonymous": request("", "acme"), "member of others": request("eve", "acme"),
		} {
			if rec := do(h, r); rec.Code < 400 {
				b.Fatalf("%s: answered %d", who, rec.Code)
			}
			b.Run(name+"/"+who, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					h.ServeHTTP(httptest.NewRecorder(), r)
				}
			})
		}
	}
}
