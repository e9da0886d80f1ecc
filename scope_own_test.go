package tenantdb_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// scrawl overwrites everything reachable from a value: fields, elements, entries, and what pointers lead to.
func scrawl(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			scrawl(v.Elem())
		}
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok && v.CanSet() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				scrawl(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Cap() { // an append would write past the end
			scrawl(v.Slice(0, v.Cap()).Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			scrawl(v.MapIndex(key))
			v.SetMapIndex(key, reflect.Zero(v.Type().Elem()))
		}
	}
	if !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("owner") // the role with the most rights
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(99)
	case reflect.Interface:
		if v.Type() == reflect.TypeFor[any]() {
			v.Set(reflect.ValueOf("owner"))
		}
	}
}

// memory records the addresses of everything that can be written through a value.
func memory(v reflect.Value, to map[string]string, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			to[fmt.Sprint(v.Pointer())] = path
			memory(v.Elem(), to, path)
		}
	case reflect.Interface:
		memory(v.Elem(), to, path)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				memory(v.Field(i), to, path+"."+f.Name)
			}
		}
	case reflect.Slice:
		if v.Cap() > 0 {
			to[fmt.Sprint(v.Pointer())] = path
		}
		for i := range v.Len() {
			memory(v.Index(i), to, fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		if !v.IsNil() {
			to[fmt.Sprint(v.Pointer())] = path
		}
		for _, key := range v.MapKeys() {
			memory(v.MapIndex(key), to, fmt.Sprintf("%s[%v]", path, key))
		}
	}
}

// show returns everything that a Scope shows, as text.
func show(t *testing.T, s *tenantdb.Scope) string {
	t.Helper()
	text, err := json.Marshal([]any{
		s.Identity, s.User, s.Tenant, s.Tenant.DBURL.Reveal(), s.Membership, s.Subscription, s.Plan, s.Role,
		s.Features,
		s.SubscriptionStatus(),
	})
	must(t, err)
	return string(text)
}

// keeper is an authenticator that keeps one identity for each subject, with claims of many types.
type keeper map[string]*tenantdb.Identity

func newKeeper(subjects ...string) keeper {
	k := keeper{}
	for _, s := range subjects {
		k[s] = &tenantdb.Identity{
			Issuer: issuer, Subject: s, Claims: map[string]any{
				"name": s, "nothing": nil, "n": 7, "groups": []string{"a", "b"},
				"deep":  map[string]any{"list": []any{"x", map[string]any{"y": true}}},
				"typed": map[string][]string{"a": {"b"}},
				"bytes": [][]byte{{1, 2}}, "array": [1][]string{{"c"}},
				"any": []map[string]any{{"z": []any{1.5}}}, "none": []any(nil), "empty": map[string]any{},
			},
		}
	}
	return k
}

func (k keeper) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	if id := k[r.Header.Get("X-Subject")]; id != nil {
		return id, nil
	}
	return nil, tenantdb.ErrNoCredential
}

func (k keeper) Vary() []string { return []string{"X-Subject"} }

// scrawling overwrites the identities that it revalidates.
type scrawling struct{ keeper }

func (scrawling) Revalidate(_ context.Context, id *tenantdb.Identity) error {
	scrawl(reflect.ValueOf(id))
	return nil
}

// ownWorld fills a product with rows of everything that a Scope can show. The callers are members of several
// tenants.
func ownWorld(t *testing.T, w *world) (callers []*http.Request) {
	t.Helper()
	past, soon := noon.AddDate(0, -1, 0), noon.AddDate(0, 1, 0)
	for _, plan := range []string{"gold", "iron"} {
		must(t, w.host.Plans.Insert(t.Context(), &hostdb.PricingPlan{
			ID: plan, Name: plan, TierLevel: 2, Features: []string{"a", "b", "c"},
		}))
	}
	ann := &hostdb.GlobalUser{
		OAuthID: "ann", Email: "ann@example.com", LastLogin: &past, StripeCustID: "cus_1",
	}
	must(t, w.host.Users.Insert(t.Context(), ann))
	bob := w.user("bob")
	acme, other, lapsed := w.tenant("acme", ann), w.tenant("other", ann), w.tenant("lapsed", ann)
	for _, tenant := range []*hostdb.TenantCatalog{acme, other, lapsed} {
		w.update(tenant, func(row *hostdb.TenantCatalog) { row.PlanTier = "gold" })
		w.member(bob, tenant, hostdb.RoleMember)
	}
	for _, s := range []hostdb.Subscription{
		{TenantID: acme.ID, Status: hostdb.SubscriptionActive, CurrentPeriodEnd: &soon, LastEventAt: &past,
			InvoiceFailedAt: &past},
		{TenantID: other.ID, Status: hostdb.SubscriptionTrialing, TrialEnd: &soon},
		{TenantID: lapsed.ID, Status: hostdb.SubscriptionCanceled, CurrentPeriodEnd: &past},
	} {
		s.PlanTier, s.PaymentType = "gold", hostdb.PaymentSubscription
		must(t, w.host.Subscriptions.Insert(t.Context(), &s))
	}
	for _, subject := range []string{"ann", "bob"} {
		for _, tenant := range []string{"acme", "other", "lapsed"} {
			r := request("", tenant)
			r.Header.Set("X-Subject", subject)
			r.Header.Set("Authorization", "Bearer "+token(subject, func(c jwt.MapClaims) {
				c["deep"] = map[string]any{"list": []any{"x", map[string]any{"y": true}}}
			}))
			callers = append(callers, r)
		}
	}
	return callers
}

// TestScope_isTheHandlersOwn: a handler, or a callback that gets an identity, may overwrite any part of it.
// No other request sees that, and no decision depends on it.
func TestScope_isTheHandlersOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		callers := ownWorld(t, w)
		for name, auth := range ownAuthenticators(w) {
			t.Run(name, func(t *testing.T) { testOwn(t, w, auth, callers) })
		}
	})
}

// ownAuthenticators returns two authenticators that keep identities. Both ask whether a credential is
// revoked, and that callback may write.
func ownAuthenticators(w *world) map[string]func(write bool) tenantdb.Authenticator {
	return map[string]func(write bool) tenantdb.Authenticator{
		"tokens": func(write bool) tenantdb.Authenticator {
			a, err := jwtauth.New(jwtauth.Config{
				Issuer: issuer, Audience: audience, Algorithms: []string{"HS256"}, Secret: secret,
				Now: w.clock.Now,
				Revoked: func(_ context.Context, id tenantdb.Identity) error {
					if write {
						scrawl(reflect.ValueOf(&id))
					}
					return nil
				},
			})
			must(w.t, err)
			return a
		},
		"identities": func(write bool) tenantdb.Authenticator {
			if write {
				return scrawling{newKeeper("ann", "bob")}
			}
			return newKeeper("ann", "bob")
		},
	}
}

// testOwn compares a middleware whose callbacks and handlers overwrite all that they get with one whose
// callbacks and handlers don't.
func testOwn(t *testing.T, w *world, auth func(write bool) tenantdb.Authenticator, callers []*http.Request) {
	cfg := w.config()
	cfg.Authenticator = auth(false)
	control := ownRoutes(t, w.middleware(cfg), func(*tenantdb.Scope) {})
	var want []map[string]routeAnswer
	for _, r := range callers {
		want = append(want, askRoutes(control, r))
	}
	cfg.Authenticator = auth(true)
	cfg.UserKey = func(id tenantdb.Identity) (tenantdb.UserKey, error) {
		key, err := tenantdb.UserBySubject(id)
		scrawl(reflect.ValueOf(&id))
		return key, err
	}
	cfg.Tenant = tenantdb.FromFunc(header, func(r *http.Request, id *tenantdb.Identity) (string, error) {
		scrawl(reflect.ValueOf(id))
		return r.Header.Get(header), nil
	})
	written := ownRoutes(t, w.middleware(cfg), func(s *tenantdb.Scope) { scrawl(reflect.ValueOf(s)) })
	compare := func() {
		for i, r := range callers {
			for route, got := range askRoutes(written, r) {
				if got != want[i][route] {
					t.Errorf("%s in %s, %s:\n%+v\nwant\n%+v", r.Header.Get("X-Subject"), r.Header.Get(header),
						route, got, want[i][route])
				}
			}
		}
	}
	compare()
	compare() // after the first round has written
	together(4, func(int) { compare() })
	if statuses := want[0]["owner"].status*1000 + want[3]["owner"].status; statuses != 200403 ||
		want[0]["plain"].scope == "" {
		t.Errorf("the control's answers are %+v", want)
	}
}

// routeAnswer is the status of an answer, and what the handler saw of its Scope before it wrote.
type routeAnswer struct {
	status int
	scope  string
}

// answerKey is the context key of a *routeAnswer.
type answerKey struct{}

// ownRoutes returns routes behind every guard, whose handlers pass all that they get to write.
func ownRoutes(t *testing.T, mw *tenantdb.Middleware, write func(*tenantdb.Scope)) map[string]http.Handler {
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s, _ := tenantdb.FromContext(r.Context())
		id, status := s.Tenant.ID, s.SubscriptionStatus()
		r.Context().Value(answerKey{}).(*routeAnswer).scope = show(t, s)
		write(s)
		again, err := s.Refresh(r.Context())
		if checked := s.Check(r.Context()); err != nil || checked != nil ||
			!reflect.DeepEqual(status, s.SubscriptionStatus()) {
			t.Errorf("after writing: Refresh: %v, Check: %v, status %+v, want %+v", err, checked,
				s.SubscriptionStatus(), status)
			return
		}
		if same, _ := tenantdb.FromContext(r.Context()); same != s || again == s {
			t.Error("FromContext returned another Scope the second time, or Refresh the same")
		}
		write(again)
		_, err = tenantdb.Cached(r.Context(), "own", func(s *tenantdb.Scope) (int, func(), error) {
			write(s)
			return 1, nil, nil
		})
		detached, done := s.Detach()
		defer done()
		entered, leave, enterErr := mw.Enter(r.Context(), id)
		if err != nil || enterErr != nil {
			t.Errorf("Cached: %v, Enter: %v", err, enterErr)
			return
		}
		defer leave()
		for _, ctx := range []context.Context{detached, entered} {
			s, _ := tenantdb.FromContext(ctx)
			write(s)
		}
	})
	return map[string]http.Handler{
		"plain":   mw.Handler(h),
		"billing": mw.HandlerWith(tenantdb.Rules{AllowInactive: true}, h),
		"owner":   mw.Handler(tenantdb.RequireRole(hostdb.RoleOwner)(h)),
		"feature": mw.Handler(tenantdb.RequireFeature("owner")(h)),
		"a":       mw.Handler(tenantdb.RequireFeature("a")(h)),
		"tier 9":  mw.Handler(tenantdb.RequireTier(9)(h)),
		"tier 2":  mw.Handler(tenantdb.RequireTier(2)(h)),
	}
}

// askRoutes requests every route.
func askRoutes(routes map[string]http.Handler, r *http.Request) map[string]routeAnswer {
	answers := map[string]routeAnswer{}
	for name, h := range routes {
		var a routeAnswer
		status := do(h, r.WithContext(context.WithValue(r.Context(), answerKey{}, &a))).Code
		a.status = status
		answers[name] = a
	}
	return answers
}

// TestScope_sharesNoMemory looks for addresses that two Scopes lead to. It finds them also in fields that are
// added later.
func TestScope_sharesNoMemory(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	callers := ownWorld(t, w)
	cfg := w.config()
	cfg.Authenticator = newKeeper("ann", "bob")
	var scopes []*tenantdb.Scope
	h := w.middleware(cfg).HandlerWith(tenantdb.Rules{AllowInactive: true},
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			again, err := s.Refresh(r.Context())
			must(t, err)
			ctx, done := s.Detach()
			defer done()
			detached, _ := tenantdb.FromContext(ctx)
			scopes = append(scopes, s, again, detached)
		}))
	for range 2 {
		for _, r := range callers {
			if rec := do(h, r); rec.Code != 200 {
				t.Fatal(rec.Code, rec.Body)
			}
		}
	}
	owner := map[string]int{}
	for i, s := range scopes {
		own := map[string]string{}
		memory(reflect.ValueOf(s), own, "scope")
		for address, path := range own {
			if other, shared := owner[address]; shared {
				t.Errorf("scopes %d and %d share %s", other, i, path)
			}
			owner[address] = i
		}
	}
	for i := range reflect.TypeFor[hostdb.Subscription]().NumField() { // a new column must be tried too
		told := func(s *tenantdb.Scope) bool {
			return s.Subscription != nil && !reflect.ValueOf(s.Subscription).Elem().Field(i).IsZero()
		}
		if field := reflect.TypeFor[hostdb.Subscription]().Field(i); field.Type.Kind() == reflect.Pointer &&
			!slices.ContainsFunc(scopes, told) {
			t.Errorf("no scope has a subscription with %s", field.Name)
		}
	}
	if len(scopes) != 36 || len(owner) < 36*15 {
		t.Errorf("%d scopes with %d addresses", len(scopes), len(owner))
	}
}
