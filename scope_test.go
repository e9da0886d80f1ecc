package tenantdb_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

func TestScope_showsTheCallerAndTheirRights(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme := w.tenant("acme", ann)
		onPlan(3, "export", "sso")(w, acme)
		mw := w.middleware(w.config())
		for _, name := range []string{"acme", acme.ID} {
			letIn(t, mw.Handler, request("ann", name), func(_ http.ResponseWriter, r *http.Request) {
				s, ok := tenantdb.FromContext(r.Context())
				if !ok {
					t.Fatal("the request has no scope")
				}
				for _, fact := range []struct {
					name      string
					got, want any
				}{
					{"User.ID", s.User.ID, ann.ID},
					{"User.PasswordHash", s.User.PasswordHash, hostdb.Secret("")},
					{"Membership.UserID", s.Membership.UserID, ann.ID},
					{"Identity.Subject", s.Identity.Subject, "ann"},
					{"Tenant.Slug", s.Tenant.Slug, "acme"},
					{"Role", s.Role, "owner"},
					{"Plan.TierLevel", s.Plan.TierLevel, 3},
					{"Subscription", s.Subscription, (*hostdb.Subscription)(nil)},
					{"HasFeature(sso)", s.HasFeature("sso"), true},
					{"HasFeature(other)", s.HasFeature("other"), false},
				} {
					if fact.got != fact.want {
						t.Errorf("%s = %v; want %v", fact.name, fact.got, fact.want)
					}
				}
			})
		}
	})
}

func TestScope_Check_followsTheMembershipAndTheToken(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, joe := w.user("ann"), w.user("joe")
		acme := w.tenant("acme", ann)
		membership := w.member(joe, acme, hostdb.RoleMember)
		cfg := w.config()
		cfg.Cache.MaxStaleness, cfg.Cache.LoadTimeout = time.Second, 10*time.Second
		letIn(t, w.middleware(cfg).Handler, request("joe", "acme"),
			func(_ http.ResponseWriter, r *http.Request) {
				s, _ := tenantdb.FromContext(r.Context())
				must(t, s.Check(r.Context()))
				must(t, w.host.Memberships.Delete(t.Context(), membership.ID))
				eventually(t, func() bool { return errors.Is(s.Check(r.Context()), tenantdb.ErrNotMember) })
			})
		expiring := token("ann", func(c jwt.MapClaims) { c["exp"] = noon.Add(time.Minute).Unix() })
		r := request("", "acme")
		r.Header.Set("Authorization", "Bearer "+expiring)
		letIn(t, w.middleware(cfg).Handler, r, func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			must(t, s.Check(r.Context()))
			w.clock.Set(noon.Add(2 * time.Minute))
			if err := s.Check(r.Context()); !errors.Is(err, tenantdb.ErrInvalidCredential) {
				t.Errorf("Check after the token's end = %v", err)
			}
		})
	})
}

func TestScope_Detach_keepsTheDatabaseAndTheContext(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		var detached context.Context
		var done func()
		ctx, cancel := context.WithCancel(t.Context())
		letIn(t, mw.Handler, request("ann", "acme").WithContext(ctx),
			func(_ http.ResponseWriter, r *http.Request) {
				s, _ := tenantdb.FromContext(r.Context())
				detached, done = s.Detach()
			})
		cancel()
		w.pool.Retire(acme.ID)
		var name string
		must(t, tenantdb.DB(detached).QueryRowContext(detached, "SELECT name FROM me").Scan(&name))
		if s, ok := tenantdb.FromContext(detached); !ok || name != "acme" || s.Tenant.ID != acme.ID {
			t.Errorf("detached into %q", name)
		}
		drain, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer stop()
		if err := w.pool.Drain(drain, acme.ID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drained although a detached scope holds the database: %v", err)
		}
		done()
		done() // a second call does nothing
		must(t, w.pool.Drain(t.Context(), acme.ID))
	})
}

func TestScope_Check_noticesThatTheNameMeansAnotherTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		letIn(t, w.middleware(w.config()).Handler, request("ann", "acme"),
			func(_ http.ResponseWriter, r *http.Request) {
				s, _ := tenantdb.FromContext(r.Context())
				must(t, s.Check(r.Context()))
				w.update(acme, func(t *hostdb.TenantCatalog) { t.Slug = "old" })
				w.update(other, func(t *hostdb.TenantCatalog) { t.Slug = "acme" })
				eventually(t, func() bool { return errors.Is(s.Check(r.Context()), tenantdb.ErrNotMember) })
			})
	})
}

func TestScope_Check_withoutATenantFollowsTheUserAndTheToken(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		joe := w.user("joe")
		letIn(t, w.middleware(w.config()).Authenticated, request("joe", ""),
			func(_ http.ResponseWriter, r *http.Request) {
				s, _ := tenantdb.FromContext(r.Context())
				must(t, s.Check(r.Context()))
				must(t, w.host.Users.Delete(t.Context(), joe.ID))
				eventually(t, func() bool { return errors.Is(s.Check(r.Context()), tenantdb.ErrForbidden) })
				w.clock.Set(noon.AddDate(2, 0, 0))
				if err := s.Check(r.Context()); !errors.Is(err, tenantdb.ErrInvalidCredential) {
					t.Errorf("Check after the token's end = %v", err)
				}
			})
	})
}

// TestScope_Check_judgesTheTokenAsARequestDoes: Check applies the leeway of the authenticator, and accepts a
// token only while the key that signed it is trusted.
func TestScope_Check_judgesTheTokenAsARequestDoes(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var keys atomic.Value
	public := func(kid string) string {
		n := base64.RawURLEncoding.EncodeToString(rsaKey().N.Bytes())
		return `{"keys":[{"kty":"RSA","kid":"` + kid + `","n":"` + n + `","e":"AQAB"}]}`
	}
	keys.Store(public("k1"))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, keys.Load().(string))
	}))
	defer server.Close()
	cfg := w.config()
	var err error
	cfg.Authenticator, err = jwtauth.New(jwtauth.Config{
		Issuer: issuer, Audience: audience, Algorithms: []string{"RS256"}, JWKSURL: server.URL,
		Leeway: time.Minute, Now: w.clock.Now,
	})
	must(t, err)
	var scope *tenantdb.Scope
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		scope, _ = tenantdb.FromContext(r.Context())
	}))
	r := request("", "acme")
	r.Header.Set("Authorization", "Bearer "+rsaToken("ann"))
	agree := func(what string, want int) {
		t.Helper()
		rec := do(h, r)
		if scope == nil {
			t.Fatalf("%s: the handler did not run: %d %s", what, rec.Code, rec.Body)
		}
		err := scope.Check(t.Context())
		if rec.Code != want || tenantdb.StatusCode(err) != want { // StatusCode(nil) is 200
			t.Errorf("%s: a request is answered %d, Check returns %v; want %d", what, rec.Code, err, want)
		}
	}
	agree("a good token", 200)
	w.clock.Set(noon.AddDate(1, 0, 0).Add(30 * time.Second))
	agree("an end within the leeway", 200)
	w.clock.Set(noon.AddDate(1, 0, 0).Add(time.Minute))
	agree("an end past the leeway", 401)
	w.clock.Set(noon)
	agree("a good token again", 200)
	keys.Store(public("k2"))
	w.clock.Set(noon.Add(20 * time.Minute)) // the next lookup starts the refresh that is due
	eventually(t, func() bool { return do(h, r).Code == 401 })
	agree("a removed key", 401)
}

// TestScope_Detach_failsAfterTheHandler covers databases that have closed since and those that have not.
func TestScope_Detach_failsAfterTheHandler(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		for _, test := range []struct {
			name  string
			wrap  func(http.Handler) http.Handler
			drain bool
		}{{"open", mw.Handler, false}, {"closed", mw.Handler, true}, {"no tenant", mw.Authenticated, false}} {
			var scope *tenantdb.Scope
			var over context.Context
			letIn(t, test.wrap, request("ann", "acme"), func(_ http.ResponseWriter, r *http.Request) {
				scope, _ = tenantdb.FromContext(r.Context())
				over = r.Context()
			})
			if test.drain {
				must(t, w.pool.Drain(t.Context(), acme.ID))
			}
			ctx, done := scope.Detach()
			child, cancel := context.WithTimeout(ctx, time.Hour)
			for _, ctx := range []context.Context{ctx, child} {
				select {
				case <-ctx.Done():
				default:
					t.Errorf("%s: the context lives", test.name)
				}
			}
			if err := ctx.Err(); !errors.Is(err, context.Canceled) ||
				!strings.Contains(err.Error(), "Detach was called after the handler") {
				t.Errorf("%s: the context's error is %v", test.name, err)
			}
			if scope.Tenant != nil {
				if err := tenantdb.DB(ctx).PingContext(ctx); err == nil {
					t.Errorf("%s: the detached context serves", test.name)
				}
				if err := tenantdb.DB(over).PingContext(over); err == nil {
					t.Errorf("%s: the scope that is over serves", test.name)
				}
			}
			cancel()
			done()
			must(t, w.pool.Drain(t.Context(), acme.ID))
		}
	})
}

// TestScope_Detach_whileTheHandlerEnds: Detach either keeps the database or fails, and leaks no lease.
func TestScope_Detach_whileTheHandlerEnds(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	for range 300 {
		detached := make(chan error)
		letIn(t, mw.Handler, request("ann", "acme"), func(_ http.ResponseWriter, r *http.Request) {
			scope, _ := tenantdb.FromContext(r.Context())
			started := make(chan struct{})
			go func() {
				close(started)
				ctx, done := scope.Detach()
				defer done()
				err := tenantdb.DB(ctx).PingContext(ctx)
				if (err == nil) != (ctx.Err() == nil) {
					detached <- fmt.Errorf("the context's error is %v, Ping's is %v", ctx.Err(), err)
				}
				close(detached)
			}()
			<-started
		})
		must(t, <-detached)
	}
	must(t, w.pool.Drain(t.Context(), acme.ID))
}

func TestFromContext_allocatesNothing(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	tenantdb.FromContext(ctx) // builds the scope
	for name, access := range map[string]func(){
		"DB":          func() { _ = tenantdb.DB(ctx) },
		"FromContext": func() { tenantdb.FromContext(ctx) },
	} {
		if n := testing.AllocsPerRun(100, access); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// TestScope_isOneForEveryGoroutine asks for the scope in several goroutines of one request.
func TestScope_isOneForEveryGoroutine(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var ready, all sync.WaitGroup
		got := make([]*tenantdb.Scope, 8)
		ready.Add(len(got))
		for i := range got {
			all.Go(func() {
				ready.Done()
				ready.Wait()
				got[i], _ = tenantdb.FromContext(r.Context())
			})
		}
		all.Wait()
		for _, s := range got {
			if s == nil || s != got[0] || s.Role == "" {
				t.Errorf("%p beside %p", s, got[0])
			}
		}
	}))
	for range 2000 {
		if rec := do(h, request("ann", "acme")); rec.Code != http.StatusOK {
			t.Fatal(rec.Code, rec.Body)
		}
	}
}

func TestScope_madeByHandGrantsNothing(t *testing.T) {
	mustPanic(t, "not from FromContext", func() { new(tenantdb.Scope).Detach() })
	for _, s := range []tenantdb.Scope{
		{}, {Identity: &tenantdb.Identity{Subject: "ann"}}, {
			Tenant: &hostdb.TenantCatalog{ID: hostdb.NewID()}, Role: "owner",
		},
	} {
		if err := s.Check(t.Context()); !errors.Is(err, tenantdb.ErrForbidden) {
			t.Errorf("Check = %v", err)
		}
		if again, err := s.Refresh(t.Context()); again != nil || !errors.Is(err, tenantdb.ErrForbidden) {
			t.Errorf("Refresh = %v, %v", again, err)
		}
	}
}

// asksBack is an authenticator whose Revalidate calls its own caller.
type asksBack struct {
	tenantdb.Authenticator
	again func(context.Context) error
	depth int
}

func (a *asksBack) Revalidate(ctx context.Context, _ *tenantdb.Identity) error {
	if a.depth++; a.depth > 10 { // a fault ends the test, not the process
		return nil
	}
	return a.again(ctx)
}

func TestScope_Check_failsInsideRevalidate(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	auth := &asksBack{Authenticator: cfg.Authenticator}
	cfg.Authenticator = auth
	letIn(t, w.middleware(cfg).Handler, request("ann", "acme"), func(_ http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		auth.again = scope.Check
		if err := scope.Check(r.Context()); !errors.Is(err, tenantdb.ErrAuthUnavailable) || auth.depth != 1 {
			t.Errorf("Check: %v after %d calls", err, auth.depth)
		}
	})
}

// TestScope_Detach_keepsTheRequestsHandles uses a handle of the request after the handler has returned.
func TestScope_Detach_keepsTheRequestsHandles(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		ctx, leave := enter()
		db := tenantdb.DB(ctx)
		scope, _ := tenantdb.FromContext(ctx)
		work, done := scope.Detach()
		leave()
		for range 3 {
			next, leave := enter()
			if tenantdb.DB(next) == db {
				t.Error("another request has the handle")
			}
			must(t, tenantdb.DB(next).Close())
			leave()
		}
		must(t, execOf(db)(work))
		done()
		next, leave := enter()
		defer leave()
		if tenantdb.DB(next) != db {
			t.Error("the handle isn't used again after the last of its scopes")
		}
	})
}

// TestScope_Refresh_returnsTheCurrentScope also checks that the request's own scope stays as it was.
func TestScope_Refresh_returnsTheCurrentScope(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		joe := w.user("joe")
		joes := w.member(joe, acme, hostdb.RoleMember)
		mw := w.middleware(w.config())
		letIn(t, mw.Handler, request("joe", "acme"), func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			joes.Role = hostdb.RoleAdmin
			must(t, w.host.Memberships.Update(t.Context(), joes))
			onPlan(3, "sso")(w, acme)
			end := noon.AddDate(0, 0, 9)
			must(t, w.host.Subscriptions.Insert(t.Context(), &hostdb.Subscription{
				TenantID: acme.ID, PlanTier: acme.PlanTier,
				Status: hostdb.SubscriptionTrialing, PaymentType: hostdb.PaymentSubscription, TrialEnd: &end,
			}))
			var again *tenantdb.Scope
			eventually(t, func() bool {
				var err error
				again, err = s.Refresh(r.Context())
				must(t, err)
				return again.Role == hostdb.RoleAdmin && again.HasFeature("sso") && again.Subscription != nil
			})
			if again.SubscriptionStatus().DaysLeft == 0 || again.User.ID != joe.ID ||
				again.Tenant.ID != acme.ID || again.Identity.Subject != "joe" {
				t.Errorf("refreshed: %+v", again)
			}
			if same, _ := tenantdb.FromContext(r.Context()); same != s || s.Role != hostdb.RoleMember ||
				s.HasFeature("sso") ||
				s.SubscriptionStatus() != (hostdb.SubscriptionStatus{}) {
				t.Errorf("the request's own: %+v", s)
			}
			ctx, done := again.Detach()
			defer done()
			must(t, tenantdb.DB(ctx).PingContext(ctx))
		})
		letIn(t, mw.Authenticated, request("joe", ""), func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			joe.Email = "joe@example.net"
			must(t, w.host.Users.Update(t.Context(), joe))
			eventually(t, func() bool {
				again, err := s.Refresh(r.Context())
				must(t, err)
				return again.User.Email == joe.Email && again.Tenant == nil
			})
		})
		anonymous := func(h http.Handler) http.Handler {
			return mw.HandlerWith(tenantdb.Rules{AllowAnonymous: true}, h)
		}
		letIn(t, anonymous, request("", ""), func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			if again, err := s.Refresh(r.Context()); err != nil || again.Identity != nil ||
				again.User != nil {
				t.Errorf("an anonymous visitor's: %+v, %v", again, err)
			}
		})
	})
}
