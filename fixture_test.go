package tenantdb_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/jwtauth"
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

// schema is what every tenant's database of the tests holds: its own name.
var schema = fstest.MapFS{"00001_me.sql": {Data: []byte("-- +goose Up\nCREATE TABLE me (name TEXT NOT NULL);\n")}}

// world is a product on one engine: a host database and the tenants' databases.
type world struct {
	t      testing.TB
	engine string
	host   *hostdb.DB
	pool   *tenantdb.Pool
	fleet  *fleet.Fleet
	clock  *clock
}

// clock is a clock that stands still until it is set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// noon is when the tests' clock stands.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// onBothEngines runs a test on SQLite and on PostgreSQL.
func onBothEngines(t *testing.T, test func(t *testing.T, w *world)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) { test(t, newWorld(t, engine, tenantdb.PoolConfig{})) })
	}
}

// newWorld makes an empty product. What it opens is closed when the test ends.
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
	w := &world{t: t, engine: engine, clock: &clock{now: noon}}
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
	if w.fleet, err = fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema, NoTemplate: true}); err != nil {
		t.Fatal(err)
	}
	return w
}

// asSuperuser runs a statement on the host database's server.
func (w *world) asSuperuser(statement string) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.host.URI())
	must(w.t, err)
	_, err = conn.Exec(w.t.Context(), statement)
	must(w.t, errors.Join(err, conn.Close(w.t.Context())))
}

// user makes a user whom tokens of that subject stand for.
func (w *world) user(subject string) *hostdb.GlobalUser {
	w.t.Helper()
	u := &hostdb.GlobalUser{OAuthID: subject, Email: subject + "@example.com"}
	must(w.t, w.host.Users.Insert(w.t.Context(), u))
	return u
}

// tenant makes a tenant of that owner, whose database holds its slug. Its plan is "free".
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
func (w *world) member(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog, role string) *hostdb.Membership {
	w.t.Helper()
	m := &hostdb.Membership{UserID: user.ID, TenantID: tenant.ID, ProfileID: hostdb.NewID(), Role: role, IsActive: true}
	must(w.t, w.host.Memberships.Insert(w.t.Context(), m))
	return m
}

// subscribe has a tenant pay for a plan.
func (w *world) subscribe(tenant *hostdb.TenantCatalog, plan string) {
	w.t.Helper()
	must(w.t, w.host.Subscriptions.Insert(w.t.Context(), &hostdb.Subscription{TenantID: tenant.ID, PlanTier: plan,
		Status: hostdb.SubscriptionActive, PaymentType: hostdb.PaymentSubscription}))
}

// update changes a tenant's row.
func (w *world) update(tenant *hostdb.TenantCatalog, change func(*hostdb.TenantCatalog)) {
	w.t.Helper()
	row, err := w.host.Tenants.Get(w.t.Context(), tenant.ID)
	must(w.t, err)
	change(row)
	must(w.t, w.host.Tenants.Update(w.t.Context(), row))
}

// config is a configuration in which "free" tenants need no subscription and the tenant comes from a header.
func (w *world) config() tenantdb.Config {
	auth, err := jwtauth.New(jwtauth.Config{Issuer: issuer, Audience: audience, Algorithms: []string{"HS256"}, Secret: secret,
		Cookie: "session", Now: w.clock.Now})
	must(w.t, err)
	return tenantdb.Config{Host: w.host, Authenticator: auth, Tenant: tenantdb.FromHeader(header), Pool: w.pool, Now: w.clock.Now,
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}}, Logger: slog.New(slog.DiscardHandler)}
}

// middleware makes a middleware, closed when the test ends.
func (w *world) middleware(cfg tenantdb.Config) *tenantdb.Middleware {
	w.t.Helper()
	mw, err := tenantdb.New(cfg)
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, mw.Close(context.Background())) })
	return mw
}

// token is a valid token of a subject.
func token(subject string, more ...func(jwt.MapClaims)) string {
	claims := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": subject, "exp": noon.AddDate(1, 0, 0).Unix()}
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
	claims := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": subject, "exp": noon.AddDate(1, 0, 0).Unix()}
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
	if err := tenantdb.DB(r.Context()).QueryRowContext(r.Context(), "SELECT name FROM me").Scan(&name); err != nil {
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
