package tenantprom_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tenantdb/tenantdb"
	tenantprom "github.com/tenantdb/tenantdb/contrib/prometheus"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCollector_isScraped(t *testing.T) {
	metrics, dir := tenantprom.New(), t.TempDir()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics)
	host, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(dir, "host.db"))
	must(t, err)
	defer host.Close()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants"),
		Observer: metrics.PoolObserver()})
	must(t, err)
	tenants, err := fleet.New(fleet.Config{Host: host, Pool: pool, Observer: metrics.FleetObserver()})
	must(t, err)
	ann := hostdb.NewUser("ann@example.com", "ann")
	must(t, host.Users.Insert(t.Context(), ann))
	acme, err := tenants.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: ann.ID})
	must(t, err)
	issuer := tenantdbtest.NewIssuer()
	auth, err := jwtauth.New(issuer.Config())
	must(t, err)
	mw, err := tenantdb.New(tenantdb.Config{Host: host, Pool: pool, Authenticator: auth,
		Tenant: tenantdb.FromHeader("X-Tenant"), Observer: metrics.Observer(),
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}}})
	must(t, err)
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tenantdb.DB(r.Context()).ExecContext(r.Context(), "SELECT 1"); err != nil {
			tenantdb.WriteError(w, r, err)
		}
	}))
	for _, name := range []string{"acme", "globex"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+issuer.Token("ann", time.Hour, nil))
		r.Header.Set("X-Tenant", name)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()
	scrape := func() string {
		t.Helper()
		answer, err := http.Get(server.URL)
		must(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		must(t, err)
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("answered %d %s", answer.StatusCode, body)
		}
		return string(body)
	}
	got := scrape()
	for _, want := range []string{
		`tenantdb_decision_duration_seconds_count{code="ok",loaded="true",operation="request"} 1`,
		`tenantdb_decision_duration_seconds_count{code="not_member",loaded="true",operation="request"} 1`,
		`tenantdb_open_duration_seconds_count{result="ok",server="sqlite"} `,
		`tenantdb_fleet_tenants_total{operation="provision",result="ok"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is missing from\n%s", want, got)
		}
	}
	for _, id := range []string{acme.ID, ann.ID, "acme"} {
		if strings.Contains(got, id) {
			t.Errorf("%s is a label", id)
		}
	}
	must(t, mw.Close(context.Background()))
	must(t, pool.Close(context.Background()))
	if got := scrape(); !strings.Contains(got, `tenantdb_connections{server="sqlite"} 0`) {
		t.Errorf("connections after Close:\n%s", got)
	}
}
