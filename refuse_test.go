package tenantdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// lines collects what is logged as JSON.
type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// logger returns a logger of every level that writes to l.
func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// take returns the lines so far without their time, and forgets them.
func (l *lines) take(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for line := range strings.Lines(l.out.String()) {
		var fields map[string]any
		must(t, json.Unmarshal([]byte(line), &fields))
		delete(fields, "time")
		all = append(all, fields)
	}
	l.out.Reset()
	return all
}

// fields is a line of the log.
type fields = map[string]any

// refusals are ways of not getting in, each with what the line about it says beside what all say.
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
		{name: "bad credential", auth: "Bearer x", tenant: "acme", status: 401, reason: "invalid_credential", cause: "not three segments"},
		{name: "no tenant", user: "ann", status: 400, reason: "no_tenant", cause: "names no tenant", more: subject("ann")},
		{name: "invalid tenant", user: "ann", tenant: "No!", status: 400, reason: "invalid_tenant", cause: "name is not valid", more: subject("ann")},
		{name: "unknown user", user: "nobody", tenant: "acme", status: 403, reason: "unknown_user", cause: "no such user",
			more: with(subject("nobody"), fields{"tenant_id": acme.ID, "tenant_slug": "acme"})},
		{name: "unknown tenant", user: "ann", tenant: "nowhere", status: 403, reason: "unknown_tenant", cause: "no such tenant",
			more: fields{"tenant_slug": "nowhere", "user_id": ann.ID}},
		{name: "no membership", user: "eve", tenant: "acme", status: 403, reason: "no_membership", cause: "no membership",
			more: with(asAnn, fields{"user_id": eve.ID})},
		{name: "inactive membership", user: "joe", tenant: "acme", status: 403, reason: "membership_inactive", cause: "is_active is false",
			more: with(asAnn, fields{"user_id": joe.ID})},
		{name: "suspended", set: status(hostdb.TenantSuspended), user: "ann", tenant: "acme", status: 403, reason: "tenant_suspended", cause: "suspended", more: asAnn},
		{name: "is_active false", set: func() { w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.IsActive = false }) },
			user: "ann", tenant: "acme", status: 403, reason: "tenant_inactive", cause: "is_active is false", more: asAnn},
		{name: "maintenance", set: status(hostdb.TenantMaintenance), user: "ann", tenant: "acme", status: 503, reason: "tenant_maintenance", cause: "maintenance", more: asAnn},
		{name: "provisioning", set: status(hostdb.TenantProvisioning), user: "ann", tenant: "acme", status: 503, reason: "tenant_provisioning", cause: "provisioning", more: asAnn},
		{name: "dropped", set: status(hostdb.TenantDropped), user: "ann", tenant: "acme", status: 403, reason: "tenant_dropped", cause: "dropped", more: asAnn},
		{name: "schema", set: func() { w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.SchemaVersion = 0 }) },
			user: "ann", tenant: "acme", status: 503, reason: "schema_too_old", cause: "older than", more: asAnn},
		{name: "no subscription", set: func() { w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.PlanTier = "pro" }) },
			user: "ann", tenant: "acme", status: 402, reason: "no_subscription", cause: `the plan "pro" is not in FreePlans, and there is no subscription`, more: asAnn},
		{name: "lapsed", set: func() {
			w.update(acme, func(c *hostdb.TenantCatalog) { open(c); c.PlanTier = "pro" })
			must(w.t, w.host.Subscriptions.Insert(w.t.Context(), &hostdb.Subscription{TenantID: acme.ID, PlanTier: "pro",
				Status: hostdb.SubscriptionPastDue, PaymentType: hostdb.PaymentSubscription}))
		}, user: "ann", tenant: "acme", status: 402, reason: "subscription_lapsed", cause: "the best subscription is past_due", more: asAnn},
		{name: "role", set: status(hostdb.TenantActive), path: "/admin", user: "ann", tenant: "acme", status: 403, reason: "role_missing", cause: "role root needed", more: asAnn},
		{name: "feature", path: "/sso", user: "ann", tenant: "acme", status: 403, reason: "feature_missing", cause: "feature sso needed", more: asAnn},
		{name: "tier", path: "/top", user: "ann", tenant: "acme", status: 403, reason: "tier_missing", cause: "tier 9 needed", more: asAnn},
		{name: "the handler's own error", path: "/broken", user: "ann", tenant: "acme", status: 500, reason: "internal", cause: `a "b" c`, more: asAnn},
		{name: "the host database's error", path: "/host", user: "ann", tenant: "acme", status: 503, reason: "host_unavailable", cause: "hostdb: unavailable", more: asAnn},
		{name: "an error of a skipped route", path: "/skipped", status: 503, reason: "busy", cause: "too much"},
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

// with returns both maps' fields in one.
func with(a, b fields) fields {
	c := maps.Clone(a)
	maps.Copy(c, b)
	return c
}

func TestTheLogSaysWhyARequestIsRefused(t *testing.T) {
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
		mux.HandleFunc("GET /skipped", func(rw http.ResponseWriter, r *http.Request) { mw.WriteError(rw, r, tenantdb.ErrBusy) })
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
			want := with(fields{"method": "GET", "route": "GET " + path, "host": "app.example.com", "reason": c.reason, "status": float64(c.status),
				"level": "INFO", "msg": "request refused"}, c.more)
			if c.status >= 500 {
				want["level"], want["msg"] = "ERROR", "request failed"
			}
			var got fields
			eventually(t, func() bool { // the change is felt
				r := request(c.user, c.tenant)
				r.URL.Path = path
				if c.auth != "" {
					r.Header.Set("Authorization", c.auth)
				}
				r.RemoteAddr = c.name + ":1" // a line of its own
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

func TestTheLogNamesARouterThatHasNotMatchedYet(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.user("ann")
	var log lines
	cfg := w.config()
	cfg.Logger, cfg.Tenant = log.logger(), tenantdb.Sources(tenantdb.FromPathValue("tenant"), tenantdb.FromSoleMembership())
	mw := w.middleware(cfg)
	inside := http.NewServeMux()
	inside.Handle("GET /me", mw.Handler(http.HandlerFunc(whoami)))
	for reason, c := range map[string]struct {
		user string
		h    http.Handler
	}{"not_routed": {"ann", mw.Handler(http.HandlerFunc(whoami))}, "no_sole_membership": {"ann", inside}, "unknown_user": {"nobody", inside}} {
		if rec := do(c.h, request(c.user, "")); rec.Code != 400 || code(t, rec) != "no_tenant" {
			t.Errorf("%s: %d %s", reason, rec.Code, rec.Body)
		}
		if got := log.take(t); len(got) != 1 || got[0]["reason"] != reason || got[0]["subject"] != c.user {
			t.Errorf("%s: logged %v", reason, got)
		}
	}
}

func TestTheRequestsContextReachesTheLogger(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	type idKey struct{}
	var ids []any
	cfg := w.config()
	cfg.Logger = slog.New(handlerFunc(func(ctx context.Context, r slog.Record) {
		scope, _ := tenantdb.FromContext(ctx) // a handler may ask the library
		ids = append(ids, ctx.Value(idKey{}), scope != nil)
	}))
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { tenantdb.WriteError(rw, r, tenantdb.ErrBusy) }))
	for id, tenant := range map[int]string{1: "acme", 2: "elsewhere"} {
		ids = nil
		r := request("ann", tenant)
		do(h, r.WithContext(context.WithValue(r.Context(), idKey{}, id)))
		if fmt.Sprint(ids) != fmt.Sprint([]any{id, id == 1}) {
			t.Errorf("the logger saw %v", ids)
		}
	}
}

// handlerFunc is a slog handler.
type handlerFunc func(context.Context, slog.Record)

func (f handlerFunc) Enabled(context.Context, slog.Level) bool { return true }
func (f handlerFunc) Handle(ctx context.Context, r slog.Record) error {
	f(ctx, r)
	return nil
}
func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return f }
func (f handlerFunc) WithGroup(string) slog.Handler      { return f }

func TestAClientThatHasGoneIsLoggedAtDebug(t *testing.T) {
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
		do(h, request("ann", "acme")) // so that its facts are cached
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

func TestAFloodOfRefusalsIsCountedNotLogged(t *testing.T) {
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
	for i := range 20_000 { // each from an address of its own
		r := request("", "acme")
		r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)
		do(h, r)
	}
	if got := log.take(t); len(got) > 1024+5 {
		t.Errorf("%d lines for 20,000 callers", len(got))
	}
}

func TestWhatAClientChoosesIsPrintableAndShortInTheLog(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var log lines
	cfg := w.config()
	cfg.Logger = log.logger()
	mw := w.middleware(cfg)
	hostile := "a\x1b[2J\u009b31m\u202e\u2066\u200f\xff\n\t" + strings.Repeat("x", 100_000)
	h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { tenantdb.WriteError(rw, r, errors.New(hostile)) }))
	r := request("ann", "acme")
	r.Host, r.Method = hostile, hostile
	do(h, r)
	do(h, request(hostile, "acme"))
	got := fmt.Sprint(log.take(t))
	if len(got) > 10_000 || strings.ContainsAny(got, "\x1b\u009b\u202e\u2066\u200f\n\t") || !strings.Contains(got, "<U+202E>") {
		t.Errorf("%d bytes: %.2000q", len(got), got)
	}
}

// TestAnErrorHandlerMayDelegate has the handler call back in every way that it can: none may call it again.
func TestAnErrorHandlerMayDelegate(t *testing.T) {
	var mw *tenantdb.Middleware
	ways := map[string]func(http.ResponseWriter, *http.Request, error){
		"WriteProblem": tenantdb.WriteProblem,
		"WriteError":   tenantdb.WriteError,
		"mw.WriteError": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r, err)
		},
		"mw.WriteError of another error": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r, fmt.Errorf("the page failed: %s", err))
		},
		"mw.WriteError without the context": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r.WithContext(context.Background()), fmt.Errorf("again: %w", err))
		},
		"mw.WriteError of another error without the context": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r.Clone(context.Background()), errors.New("the page failed"))
		},
		"another goroutine": func(w http.ResponseWriter, r *http.Request, err error) {
			var running sync.WaitGroup
			running.Go(func() { mw.WriteError(w, r, err) })
			running.Wait()
		},
		"a guarded page": func(w http.ResponseWriter, r *http.Request, err error) {
			r.Header.Set(header, "nowhere")
			mw.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
		},
		"a guard": func(w http.ResponseWriter, r *http.Request, err error) {
			tenantdb.RequireRole("root")(http.NotFoundHandler()).ServeHTTP(w, r)
		},
	}
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, delegate := range ways {
		calls := 0
		cfg := w.config()
		cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.ErrorHandler = func(rw http.ResponseWriter, r *http.Request, err error) {
			if calls++; calls < 5 { // a fault ends the test, not the process
				delegate(rw, r, err)
			}
		}
		mw = w.middleware(cfg)
		h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { tenantdb.WriteError(rw, r, tenantdb.ErrBusy) }))
		for _, user := range []string{"ann", "nobody", ""} {
			calls = 0
			rec := do(h, request(user, "acme"))
			if code(t, rec); calls != 1 || len(rec.Header()["Vary"]) > 1 {
				t.Errorf("%s by %q: %d calls, answered %d, Vary %q", name, user, calls, rec.Code, rec.Header()["Vary"])
			}
		}
	}
}

func TestADelegatedErrorIsLoggedOnce(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	var log lines
	before := slog.Default()
	slog.SetDefault(log.logger())
	defer slog.SetDefault(before)
	var mw *tenantdb.Middleware
	for name, delegate := range map[string]func(http.ResponseWriter, *http.Request, error){"WriteError": tenantdb.WriteError,
		"mw.WriteError": func(w http.ResponseWriter, r *http.Request, err error) { mw.WriteError(w, r, err) }} {
		cfg := w.config()
		cfg.Logger, cfg.ErrorHandler = nil, delegate
		mw = w.middleware(cfg)
		do(mw.Handler(http.NotFoundHandler()), request("", "acme"))
		if got := log.take(t); len(got) != 1 {
			t.Errorf("%s: logged %v", name, got)
		}
	}
}

func TestAnErrorIsALogValue(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme, eve := w.tenant("acme", w.user("ann")), w.user("eve")
	var log lines
	cfg := w.config()
	cfg.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { log.logger().Info("mine", "err", err) }
	cfg.Logger = slog.New(slog.DiscardHandler)
	do(w.middleware(cfg).Handler(http.NotFoundHandler()), request("eve", "acme"))
	got := log.take(t)
	want := fields{"code": "not_member", "reason": "no_membership", "tenant_id": acme.ID, "tenant_slug": "acme", "user_id": eve.ID,
		"cause": "tenantdb: not a member of this tenant: the user has no membership of it"}
	if len(got) != 1 || fmt.Sprint(got[0]["err"]) != fmt.Sprint(want) {
		t.Errorf("logged %v", got)
	}
}

func TestWriteErrorOutsideAScopeLogsToTheDefaultLogger(t *testing.T) {
	var log lines
	before := slog.Default()
	slog.SetDefault(log.logger())
	defer slog.SetDefault(before)
	tenantdb.WriteError(httptest.NewRecorder(), request("", ""), errors.New("disk on fire"))
	if got := log.take(t); len(got) != 1 || got[0]["level"] != "ERROR" || got[0]["cause"] != "disk on fire" {
		t.Errorf("logged %v", got)
	}
}

func TestAPanicInFirstLoginIsLoggedWithItsStack(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	var log lines
	cfg := w.config()
	cfg.Logger = log.logger()
	cfg.FirstLogin = func(context.Context, *tenantdb.Identity) error { panic("out of luck") }
	mw := w.middleware(cfg)
	if rec := do(mw.Authenticated(http.NotFoundHandler()), request("newcomer", "")); rec.Code != 503 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	eventually(t, func() bool {
		for _, line := range log.take(t) {
			stack, _ := line["stack"].(string)
			if line["panic"] == "out of luck" && line["subject"] == "newcomer" && strings.Contains(stack, "TestAPanicInFirstLogin") {
				return true
			}
		}
		return false
	})
}

func TestFirstLoginMayCallBack(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		var mw *tenantdb.Middleware
		cfg := w.config()
		cfg.Logger, cfg.Cache.LoadTimeout = slog.New(slog.DiscardHandler), 300*time.Millisecond
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
			if _, found := tenantdb.FromContext(ctx); found {
				t.Error("the hook has a scope")
			}
			if _, leave, err := mw.Enter(context.Background(), acme.ID); err != nil {
				t.Error(err)
			} else {
				leave()
			}
			// A request as the user who is being made waits for itself, and gets an answer.
			if rec := do(mw.Authenticated(http.NotFoundHandler()), request(id.Subject, "")); rec.Code != 503 {
				t.Errorf("the request inside: %d %s", rec.Code, rec.Body)
			}
			return w.host.Users.Insert(context.Background(), &hostdb.GlobalUser{OAuthID: id.Subject, Email: "n@example.com"})
		}
		mw = w.middleware(cfg)
		h := mw.Authenticated(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		do(h, request("newcomer", ""))
		eventually(t, func() bool { return do(h, request("newcomer", "")).Code == 200 })
	})
}

// TestALongAcceptHeaderIsNotParsed bounds what an unauthenticated request makes the middleware read.
func TestALongAcceptHeaderIsNotParsed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Redirects.Login, cfg.Logger = "/login", slog.New(slog.DiscardHandler)
	h := w.middleware(cfg).Handler(http.NotFoundHandler())
	for name, accept := range map[string][]string{
		"one":  {strings.Repeat("a/b;c=d,", 130_000) + "text/html"},
		"many": strings.Split(strings.Repeat("a/b|", 100_000)+"text/html", "|"),
	} {
		r := request("", "acme")
		r.Header["Accept"] = accept
		if n := testing.AllocsPerRun(1, func() { do(h, r) }); n > 200 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if rec := do(h, r); rec.Code != 401 {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
}

func BenchmarkRefusal(b *testing.B) {
	w := newWorld(b, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	w.user("eve")
	cfg := w.config()
	cfg.Logger = slog.New(slog.DiscardHandler)
	for name, logger := range map[string]*slog.Logger{"silent": slog.New(slog.DiscardHandler), "logged": new(lines).logger()} {
		cfg.Logger = logger
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		for who, r := range map[string]*http.Request{"anonymous": request("", "acme"), "member of others": request("eve", "acme")} {
			b.Run(name+"/"+who, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					h.ServeHTTP(httptest.NewRecorder(), r)
				}
			})
		}
	}
}
