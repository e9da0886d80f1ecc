package tenantdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// health returns the status and the body that a health handler answers with.
func health(t *testing.T, handler http.HandlerFunc) (status int, name, reasons string) {
	t.Helper()
	rec := httptest.NewRecorder()
	handler(rec, httptest.NewRequest("GET", "/readyz", nil))
	var body struct {
		Status  string
		Reasons []string
	}
	must(t, json.Unmarshal(rec.Body.Bytes(), &body))
	if rec.Header().Get("Cache-Control") != "no-store" ||
		rec.Header().Get("Content-Type") != "application/json" {
		t.Errorf("headers: %v", rec.Header())
	}
	return rec.Code, body.Status, strings.Join(body.Reasons, "; ")
}

// isReady reports whether Readyz answers this, with a reason that has the text.
func isReady(t *testing.T, mw *tenantdb.Middleware, status int, name, reason string) bool {
	t.Helper()
	gotStatus, gotName, reasons := health(t, mw.Readyz)
	return gotStatus == status && gotName == name && strings.Contains(reasons, reason) &&
		(reason != "") == (reasons != "")
}

func TestReadyz_isReadyWhileCachedFactsMayServe(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.Cache.MaxStaleness = 100 * time.Millisecond
		cfg.Cache.MaxStaleIfDown = 2 * time.Second
		mw := w.middleware(cfg)
		eventually(t, func() bool { return isReady(t, mw, 200, "ok", "") })
		must(t, w.host.Close())
		eventually(t, func() bool {
			return isReady(t, mw, 200, "degraded", "the host database doesn't answer; cached facts serve")
		})
		eventually(t, func() bool { return isReady(t, mw, 503, "unavailable", "too old to serve") })
		if status, name, _ := health(t, mw.Livez); status != 200 || name != "ok" {
			t.Errorf("Livez: %d %s", status, name)
		}
		must(t, mw.Close(context.Background()))
		if !isReady(t, mw, 503, "unavailable", "shutting down") {
			t.Error("a closed middleware is ready")
		}
	})
}

func TestReadyz_isNotReadyBeforeTheHostDatabaseHasAnswered(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	address := hostdb.Secret(server.Database(t))
	server.Stop()
	host, err := hostdb.OpenConfig(t.Context(), hostdb.Config{URL: address, StartLater: true})
	must(t, err)
	defer host.Close()
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Host, cfg.Pool = host, nil
	mw := w.middleware(cfg)
	if !isReady(t, mw, 503, "unavailable", "has not answered yet") {
		t.Error("it is ready")
	}
	must(t, server.Start())
	eventually(t, func() bool { return isReady(t, mw, 200, "ok", "") })
}

func TestReadyz_countsServersOfTenantsThatDontAnswer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	w.update(acme, func(row *hostdb.TenantCatalog) { row.DBURL = hostdb.Secret(server.Database(t)) })
	mw := w.middleware(w.config())
	h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := tenantdb.DB(r.Context()).PingContext(r.Context()); err != nil {
			tenantdb.WriteError(rw, r, err)
		}
	}))
	mustServe(t, h, request("ann", "acme"))
	if !isReady(t, mw, 200, "ok", "") {
		t.Error("it isn't ok")
	}
	server.Kill()
	eventually(t, func() bool {
		do(h, request("ann", "acme"))
		return isReady(t, mw, 200, "degraded", "1 of 1 servers of tenants don't answer")
	})
	must(t, server.Start())
	eventually(t, func() bool {
		do(h, request("ann", "acme"))
		return isReady(t, mw, 200, "ok", "")
	})
}

func TestServeStats_isStatsAsJSON(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	mustServe(t, mw.Handler(http.HandlerFunc(whoami)), request("ann", "acme"))
	rec := httptest.NewRecorder()
	mw.ServeStats(rec, httptest.NewRequest("GET", "/debug/tenantdb", nil))
	var got tenantdb.Stats
	must(t, json.Unmarshal(rec.Body.Bytes(), &got))
	if got.Entries != 1 || got.Pool.Tenants != 1 || got.Pool.SQLite.MaxOpen == 0 {
		t.Errorf("%s", rec.Body)
	}
}

func TestProfileLabels_nameTheTenantWhileItsHandlerRuns(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	label := `"tenant_id":"` + acme.ID + `"`
	labelled := func() bool {
		var out bytes.Buffer
		must(t, pprof.Lookup("goroutine").WriteTo(&out, 1))
		return strings.Contains(out.String(), label)
	}
	for _, on := range []bool{false, true} {
		cfg := w.config()
		cfg.ProfileLabels = on
		letIn(t, w.middleware(cfg).Handler, request("ann", "acme"), func(http.ResponseWriter, *http.Request) {
			if labelled() != on {
				t.Errorf("ProfileLabels %v: labelled: %v", on, labelled())
			}
			inherited := make(chan bool)
			go func() { inherited <- labelled() }()
			if <-inherited != on {
				t.Errorf("ProfileLabels %v: a goroutine of the handler's: %v", on, !on)
			}
		})
		eventually(t, func() bool { return !labelled() }) // the handler's goroutine may be ending still
	}
}
