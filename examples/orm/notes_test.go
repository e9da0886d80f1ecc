package orm

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"entgo.io/ent/dialect"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

//go:embed migrations
var migrations embed.FS

// libraries returns those that work on an engine.
var libraries = map[string]map[string]Notes{
	"sqlite": {"sqlx": Sqlx{"sqlite3"}, "gorm": Gorm{GORMSQLite}, "ent": Ent{dialect.SQLite}},
	"postgres": {"sqlc": Sqlc{}, "sqlx": Sqlx{"pgx"}, "gorm": Gorm{GORMPostgres},
		"ent": Ent{dialect.Postgres}},
}

// TestLibraries_reachTheTenantOfTheirRequest makes every library write into two tenants and read what all
// have written. The budget is two connections, so a library that kept one would stop the others.
func TestLibraries_reachTheTenantOfTheirRequest(t *testing.T) {
	for engine, library := range libraries {
		t.Run(engine, func(t *testing.T) {
			p := newProduct(t, engine)
			for _, slug := range []string{"acme", "globex"} {
				var want []string
				for name, notes := range library {
					h := p.mw.Handler(Handler(notes))
					for round := range 3 {
						body := fmt.Sprintf("%s by %s, %d", slug, name, round)
						p.send(t, h, slug, http.MethodPost, []string{body, body + " too"}, http.StatusCreated)
						want = append(want, body, body+" too")
						p.send(t, h, slug, http.MethodPost, []string{"never seen", ""},
							http.StatusUnprocessableEntity)
					}
				}
				for name, notes := range library {
					var got []string
					answer := p.send(t, p.mw.Handler(Handler(notes)), slug, http.MethodGet, nil,
						http.StatusOK)
					if err := json.Unmarshal(answer, &got); err != nil || !slices.Equal(got, want) {
						t.Errorf("%s reads in %s: %q, %v; want %q", name, slug, got, err, want)
					}
				}
			}
		})
	}
}

// TestLibraries_giveUpWithTheirRequest checks that a query ends when its caller has gone, and that the next
// one is served.
func TestLibraries_giveUpWithTheirRequest(t *testing.T) {
	for engine, library := range libraries {
		t.Run(engine, func(t *testing.T) {
			p := newProduct(t, engine)
			for name, notes := range library {
				h := p.mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if _, err := notes.List(r.Context()); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					ctx, cancel := context.WithCancel(r.Context())
					cancel()
					if err := notes.Add(ctx, "too late"); err == nil {
						t.Errorf("%s adds after its caller has gone", name)
					}
					if list, err := notes.List(r.Context()); err != nil || len(list) != 0 {
						t.Errorf("%s afterwards: %q, %v", name, list, err)
					}
				}))
				p.send(t, h, "acme", http.MethodGet, nil, http.StatusOK)
			}
		})
	}
}

// product has the tenants acme and globex, both owned by ann.
type product struct {
	mw     *tenantdb.Middleware
	issuer *tenantdbtest.Issuer
}

func newProduct(t *testing.T, engine string) *product {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "host.db")
	if engine == "postgres" {
		url = pgtest.Database(t)
	}
	host, err := hostdb.Open(ctx, url)
	must(t, err)
	t.Cleanup(func() { must(t, host.Close()) })
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants"), MaxConns: 2,
		AcquireTimeout: 30 * time.Second})
	must(t, err)
	t.Cleanup(func() { must(t, pool.Close(context.Background())) })
	ann := &hostdb.GlobalUser{OAuthID: "ann", Email: "ann@example.com"}
	must(t, host.Users.Insert(ctx, ann))
	schema, err := fs.Sub(migrations, "migrations/"+engine)
	must(t, err)
	f, err := fleet.New(fleet.Config{Host: host, Pool: pool, Migrations: schema})
	must(t, err)
	for _, slug := range []string{"acme", "globex"} {
		tenant, err := f.Provision(ctx, fleet.Spec{Slug: slug, OwnerID: ann.ID})
		must(t, err)
		t.Cleanup(func() { must(t, f.Drop(context.Background(), tenant.ID)) })
	}
	p := &product{issuer: tenantdbtest.NewIssuer()}
	auth, err := jwtauth.New(p.issuer.Config())
	must(t, err)
	p.mw, err = tenantdb.New(tenantdb.Config{Host: host, Pool: pool, Authenticator: auth,
		Tenant:       tenantdb.FromHeader("X-Tenant"),
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}}})
	must(t, err)
	t.Cleanup(func() { must(t, p.mw.Close(context.Background())) })
	return p
}

// send sends a request as ann and returns the answer, whose status must be as given.
func (p *product) send(t *testing.T, h http.Handler, tenant, method string, bodies []string,
	status int) []byte {
	t.Helper()
	content, err := json.Marshal(bodies)
	must(t, err)
	r := httptest.NewRequest(method, "/notes", bytes.NewReader(content))
	r.Header.Set("Authorization", "Bearer "+p.issuer.Token("ann", time.Hour, nil))
	r.Header.Set("X-Tenant", tenant)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if rec.Code != status {
		t.Fatalf("%s in %s: %d %s; want %d", method, tenant, rec.Code, strings.TrimSpace(rec.Body.String()),
			status)
	}
	return rec.Body.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
