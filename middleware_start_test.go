package tenantdb_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

// TestMiddleware_startsWhileTheHostDatabaseIsDown starts a process before its host database. Members are
// refused until the host database is there, strangers also afterwards.
func TestMiddleware_startsWhileTheHostDatabaseIsDown(t *testing.T) {
	server := pgtest.Start(t)
	url := hostdb.Secret(server.Database(t))
	open := func(config hostdb.Config) *world { // starts a process
		w := &world{t: t, engine: "postgres", clock: tenantdbtest.NewClock(noon)}
		var err error
		w.host, err = hostdb.OpenConfig(t.Context(), config)
		must(t, err)
		t.Cleanup(func() { _ = w.host.Close() })
		w.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
		must(t, err)
		t.Cleanup(func() { _ = w.pool.Close(context.Background()) })
		w.fleet, err = fleet.New(fleet.Config{
			Host: w.host, Pool: w.pool, Migrations: schema, NoTemplate: true,
		})
		must(t, err)
		return w
	}
	before := open(hostdb.Config{URL: url})
	joe := before.user("joe")
	membership := before.member(joe, before.tenant("acme", before.user("ann")), hostdb.RoleMember)
	must(t, before.pool.Close(t.Context()))
	must(t, before.host.Close())
	server.Stop()

	w := open(hostdb.Config{URL: url, StartLater: true, PollInterval: 50 * time.Millisecond})
	cfg := w.config()
	var log bytes.Buffer // written before the middleware is closed, and read after
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	mw, err := tenantdb.New(cfg)
	must(t, err)
	h := mw.Handler(http.HandlerFunc(whoami))
	ask := func(subject string) (int, string) {
		rec := do(h, request(subject, "acme"))
		if rec.Code == 200 {
			return rec.Code, ""
		}
		if rec.Code == 503 && rec.Header().Get("Retry-After") == "" {
			t.Error("a 503 without Retry-After")
		}
		return rec.Code, code(t, rec)
	}
	for range 3 {
		for _, subject := range []string{"joe", "ann", "eve"} {
			if status, code := ask(subject); status != 503 || code != "host_unavailable" {
				t.Errorf("%s got %d %s while there is no host database", subject, status, code)
			}
		}
	}
	if _, _, err := mw.Enter(t.Context(), membership.TenantID); tenantdb.StatusCode(err) != 503 {
		t.Errorf("Enter: %v", err)
	}
	eventually(t, func() bool { return mw.Stats().FeedFailing })
	must(t, server.Start())
	eventually(t, func() bool {
		status, code := ask("joe")
		if status != 200 && code != "host_unavailable" {
			t.Errorf("joe got %d %s", status, code)
		}
		return status == 200
	})
	if status, _ := ask("eve"); status != 403 {
		t.Errorf("eve got %d", status)
	}
	must(t, w.host.Memberships.Delete(t.Context(), membership.ID))
	eventually(t, func() bool { status, _ := ask("joe"); return status == 403 })
	if mw.Stats().FeedFailing {
		t.Error("the feed counts as failing")
	}
	must(t, mw.Close(t.Context()))
	if text := log.String(); !strings.Contains(text, "not been reached yet") ||
		strings.Contains(text, ":pgtest@") {
		t.Errorf("the log: %s", text)
	}
}
