package tenantdb_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(serveVariable); url != "" {
		if err := serve(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(pgtest.Run(m))
}

const (
	issuer   = "https://issuer.example"
	audience = "tenantdb-test"
	header   = "X-Tenant"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

// schema is that of every tenant's database in the tests. The database holds the tenant's own name.
var schema = fstest.MapFS{"00001_me.sql": {
	Data: []byte("-- +goose Up\nCREATE TABLE me (name TEXT NOT NULL);\n"),
}}

// world is a product on one engine: a host database and the databases of tenants.
type world struct {
	t      testing.TB
	engine string
	host   *hostdb.DB
	pool   *tenantdb.Pool
	fleet  *fleet.Fleet
	clock  *tenantdbtest.Clock
}

// noon is where the clock of the tests starts.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// onBothEngines runs a test on SQLite and on PostgreSQL.
func onBothEngines(t *testing.T, test func(t *testing.T, w *world)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) { test(t, newWorld(t, engine, tenantdb.PoolConfig{})) })
	}
}

// newWorld makes an empty product, which is closed when the test ends.
func newWorld(t testing.TB, engine string, cfg tenantdb.PoolConfig) *world {
	t.Helper()
	dir := t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "host.db")
	if engine == "postgres" {
		url = pgtest.Clone(t, "host", func(url string) error {
			db, err := hostdb.Open(context.Background(), url)
			if err != nil {
				return err
			}
			return db.Close()
		})
	}
	w := &world{t: t, engine: engine, clock: tenantdbtest.NewClock(noon)}
	var err error
	if w.host, err = hostdb.Open(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.host.Close() })
	cfg.SQLiteDir = filepath.Join(dir, "tenants")
	if w.pool, err = tenantdb.NewPool(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.pool.Close(ctx); err != nil {
			t.Errorf("the pool did not close: %v", err)
		}
	})
	if w.fleet, err = fleet.New(fleet.Config{
		Host: w.host, Pool: w.pool, Migrations: schema, NoTemplate: true,
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// user makes a user. Tokens with that subject stand for the user.
func (w *world) user(subject string) *hostdb.GlobalUser {
	w.t.Helper()
	u := &hostdb.GlobalUser{OAuthID: subject, Email: subject + "@example.com"}
	must(w.t, w.host.Users.Insert(w.t.Context(), u))
	return u
}

// tenant makes a tenant with that owner on the plan "free". Its database holds its slug.
func (w *world) tenant(slug string, owner *hostdb.GlobalUser) *hostdb.TenantCatalog {
	w.t.Helper()
	tenant, err := w.fleet.Provision(w.t.Context(), fleet.Spec{Slug: slug, OwnerID: owner.ID})
	must(w.t, err)
	if w.engine == "postgres" {
		w.t.Cleanup(func() {
			if err := w.fleet.Drop(context.Background(), tenant.ID); err != nil && !w.t.Failed() {
				w.t.Logf("drop %s: %v", slug, err)
			}
		})
	}
	lease, err := w.pool.Lease(tenant)
	must(w.t, err)
	defer lease.Release()
	_, err = lease.DB().ExecContext(w.t.Context(), "INSERT INTO me (name) VALUES ($1)", slug)
	must(w.t, err)
	return tenant
}

// member makes a user a member of a tenant.
func (w *world) member(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog,
	role string) *hostdb.Membership {
	w.t.Helper()
	m := &hostdb.Membership{
		UserID: user.ID, TenantID: tenant.ID, ProfileID: hostdb.NewID(), Role: role, IsActive: true,
	}
	must(w.t, w.host.Memberships.Insert(w.t.Context(), m))
	return m
}

// subscribe gives a tenant an active subscription to a plan.
func (w *world) subscribe(tenant *hostdb.TenantCatalog, plan string) {
	w.t.Helper()
	must(w.t, w.host.Subscriptions.Insert(w.t.Context(), &hostdb.Subscription{
		TenantID: tenant.ID, PlanTier: plan,
		Status: hostdb.SubscriptionActive, PaymentType: hostdb.PaymentSubscription,
	}))
}

// update changes a tenant's row.
func (w *world) update(tenant *hostdb.TenantCatalog, change func(*hostdb.TenantCatalog)) {
	w.t.Helper()
	row, err := w.host.Tenants.Get(w.t.Context(), tenant.ID)
	must(w.t, err)
	change(row)
	must(w.t, w.host.Tenants.Update(w.t.Context(), row))
}

// config accepts "free" tenants without a subscription and takes the tenant from a header.
func (w *world) config() tenantdb.Config {
	auth, err := jwtauth.New(jwtauth.Config{
		Issuer: issuer, Audience: audience, Algorithms: []string{"HS256"}, Secret: secret,
		Cookie: "session", Now: w.clock.Now,
	})
	must(w.t, err)
	return tenantdb.Config{
		Host: w.host, Authenticator: auth, Tenant: tenantdb.FromHeader(header), Pool: w.pool,
		Now:          w.clock.Now,
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}},
		Logger:       slog.New(slog.DiscardHandler),
	}
}

// middleware makes a middleware that is closed when the test ends.
func (w *world) middleware(cfg tenantdb.Config) *tenantdb.Middleware {
	w.t.Helper()
	mw, err := tenantdb.New(cfg)
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, mw.Close(context.Background())) })
	return mw
}

// token is a valid token of a subject.
func token(subject string, more ...func(jwt.MapClaims)) string {
	claims := jwt.MapClaims{
		"iss": issuer, "aud": audience, "sub": subject, "exp": noon.AddDate(1, 0, 0).Unix(),
	}
	for _, change := range more {
		change(claims)
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
	if err != nil {
		panic(err)
	}
	return signed
}

// rsaKey signs tokens that no configured key verifies.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// rsaToken is a token signed with RS256.
func rsaToken(subject string) string {
	claims := jwt.MapClaims{
		"iss": issuer, "aud": audience, "sub": subject, "exp": noon.AddDate(1, 0, 0).Unix(),
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	t.Header["kid"] = "k1"
	signed, err := t.SignedString(rsaKey())
	if err != nil {
		panic(err)
	}
	return signed
}

// request is a signed-in GET; an empty subject or tenant leaves that header out.
func request(subject, tenant string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://app.example.com/me", nil)
	if subject != "" {
		r.Header.Set("Authorization", "Bearer "+token(subject))
	}
	if tenant != "" {
		r.Header.Set(header, tenant)
	}
	return r
}

// do serves one request.
func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

// whoami answers with the name that the tenant's own database holds.
func whoami(w http.ResponseWriter, r *http.Request) {
	var name string
	if err := tenantdb.DB(r.Context()).QueryRowContext(r.Context(),
		"SELECT name FROM me").Scan(&name); err != nil {
		tenantdb.WriteError(w, r, err)
		return
	}
	_, _ = io.WriteString(w, name)
}

// code is the code of a problem+json body.
func code(t *testing.T, rec *httptest.ResponseRecorder) string {
	t.Helper()
	var body struct {
		Code   string `json:"code"`
		Status int    `json:"status"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil || body.Status != rec.Code {
		t.Fatalf("body %q of status %d: not its problem+json: %v", rec.Body, rec.Code, err)
	}
	return body.Code
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until a change has its effect. The library promises a much shorter time than the limit
// here.
func eventually(t testing.TB, seen func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !seen() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen within 10 s")
		}
	}
}

// together runs n calls at once.
func together(n int, call func(i int)) {
	start, done := make(chan struct{}), make(chan struct{})
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }()
			<-start
			call(i)
		}()
	}
	close(start)
	for range n {
		<-done
	}
}

// feedStarted waits until a middleware has polled the host database for changes. The first poll drops what
// was cached before it.
func feedStarted(t testing.TB, mw *tenantdb.Middleware) {
	t.Helper()
	eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
}

// emptyHandler answers 200 without a body.
var emptyHandler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// letIn serves a request and fails unless the handler behind the guard ran. The handler's own assertions
// prove nothing if it was never called.
func letIn(t *testing.T, guard func(http.Handler) http.Handler, r *http.Request, handler http.HandlerFunc) {
	t.Helper()
	ran := false
	rec := do(guard(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		ran = true
		handler(rw, r)
	})), r)
	if !ran || rec.Code != http.StatusOK {
		t.Fatalf("the handler ran: %v; the request was answered %d %s", ran, rec.Code, rec.Body)
	}
}

// mustServe serves a request that must be answered 200.
func mustServe(t *testing.T, h http.Handler, r *http.Request) {
	t.Helper()
	if rec := do(h, r); rec.Code != http.StatusOK {
		t.Fatalf("the request was answered %d %s", rec.Code, rec.Body)
	}
}

func mustPanic(t *testing.T, text string, call func()) {
	t.Helper()
	defer func() {
		if p, _ := recover().(string); !strings.Contains(p, text) {
			t.Errorf("panic = %q; want one that says %q", p, text)
		}
	}()
	call()
}

// authFunc is an Authenticator.
type authFunc func(*http.Request) (*tenantdb.Identity, error)

func (f authFunc) Authenticate(r *http.Request) (*tenantdb.Identity, error) { return f(r) }

func at(d time.Duration) *time.Time {
	t := noon.Add(d)
	return &t
}

func setStatus(status string) func(*world, *hostdb.TenantCatalog) {
	return func(w *world, acme *hostdb.TenantCatalog) {
		w.update(acme, func(t *hostdb.TenantCatalog) { t.Status = status })
	}
}

func setTier(tier string) func(*world, *hostdb.TenantCatalog) {
	return func(w *world, acme *hostdb.TenantCatalog) {
		w.update(acme, func(t *hostdb.TenantCatalog) { t.PlanTier = tier })
	}
}

func setURL(url string) func(*world, *hostdb.TenantCatalog) {
	return func(w *world, acme *hostdb.TenantCatalog) {
		w.update(acme, func(t *hostdb.TenantCatalog) { t.DBURL = hostdb.Secret(url) })
	}
}

// subscribed moves a tenant to a paid plan and gives it a subscription.
func subscribed(s hostdb.Subscription) func(*world, *hostdb.TenantCatalog) {
	return func(w *world, acme *hostdb.TenantCatalog) {
		setTier("pro")(w, acme)
		row := s
		row.TenantID, row.PlanTier = acme.ID, "pro"
		if row.PaymentType == "" {
			row.PaymentType = "subscription"
		}
		must(w.t, w.host.Subscriptions.Insert(w.t.Context(), &row))
	}
}

// onPlan adds the free plan to the price list.
func onPlan(tier int, features ...string) func(*world, *hostdb.TenantCatalog) {
	return func(w *world, _ *hostdb.TenantCatalog) {
		must(w.t, w.host.Plans.Insert(w.t.Context(), &hostdb.PricingPlan{
			ID: "free", Name: "Free", TierLevel: tier, Features: features, IsActive: true,
		}))
	}
}

// crowd makes n members of a tenant. The subject of each is the id of the membership.
func (w *world) crowd(tenant *hostdb.TenantCatalog, n int) []*hostdb.Membership {
	w.t.Helper()
	var members []*hostdb.Membership
	must(w.t, w.host.InTx(w.t.Context(), func(tx *hostdb.Tx) error {
		members = nil
		for range n {
			id := hostdb.NewID()
			user := &hostdb.GlobalUser{OAuthID: id, Email: id + "@example.com"}
			if err := tx.Users.Insert(w.t.Context(), user); err != nil {
				return err
			}
			m := &hostdb.Membership{ID: id, UserID: user.ID, TenantID: tenant.ID, IsActive: true}
			if err := tx.Memberships.Insert(w.t.Context(), m); err != nil {
				return err
			}
			members = append(members, m)
		}
		return nil
	}))
	return members
}

// closing returns a function that reports whether the database of a scope has closed.
func closing(t *testing.T, ctx context.Context) func() bool {
	var closed atomic.Bool
	_, err := tenantdb.Cached(ctx, &closed, func(*tenantdb.Scope) (int, func(), error) {
		return 0, func() { closed.Store(true) }, nil
	})
	must(t, err)
	return closed.Load
}

// behind opens the host database as another program would.
func (w *world) behind() *sql.DB {
	w.t.Helper()
	driver, source := "pgx", w.host.URI()
	if path, isFile := strings.CutPrefix(source, "sqlite:"); isFile {
		driver, source = "sqlite", "file:"+path+"?_busy_timeout=10000"
	}
	db, err := sql.Open(driver, source)
	must(w.t, err)
	w.t.Cleanup(func() { _ = db.Close() })
	return db
}

func (w *world) bySlug(slug string) *hostdb.TenantCatalog {
	w.t.Helper()
	tenant, err := w.host.Tenants.BySlug(w.t.Context(), slug)
	must(w.t, err)
	return tenant
}

// sqliteFile returns the path of the file that a SQLite tenant has.
func (w *world) sqliteFile(tenant *hostdb.TenantCatalog) string {
	root, err := w.pool.SQLiteRoot()
	must(w.t, err)
	defer root.Close()
	return filepath.Join(root.Name(), tenant.ID+".db")
}
