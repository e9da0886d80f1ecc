package tenantdb_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestPool_idleConnectionsEndedByTheServerFailNoQuery(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	h := mw.Handler(http.HandlerFunc(whoami))
	admin, err := pgx.Connect(t.Context(), pgtest.Shared(t).URL("postgres"))
	must(t, err)
	defer admin.Close(context.Background())
	database := ask[string](t, ctx, "SELECT current_database()")
	for range 20 {
		pids(t, ctx, 3)
		released := time.Now()
		var ended int
		must(t, admin.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = $1 AND backend_type = 'client backend'`, database).Scan(&ended))
		if ended != 3 {
			t.Fatalf("%d connections were ended: it proves nothing", ended)
		}
		eventually(t, func() bool {
			var left int
			must(t, admin.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = $1",
				database).Scan(&left))
			// connections used a moment ago aren't checked
			return left == 0 && time.Since(released) > 2*time.Millisecond
		})
		answers := make(chan string, 4)
		together(4, func(i int) {
			if i%2 == 0 {
				answers <- do(h, request("ann", "acme")).Body.String()
				return
			}
			var name string
			if err := tenantdb.PG(ctx).QueryRow(ctx, "SELECT name FROM me").Scan(&name); err != nil {
				name = fmt.Sprint(err)
			}
			answers <- name
		})
		for range 4 {
			if got := <-answers; got != "acme" {
				t.Fatalf("answered %q", got)
			}
		}
	}
}

func TestPool_serversRestartFailsNoLaterRequest(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	s := pgtest.Start(t)
	w.moveTo(acme, s, "")
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	h := mw.Handler(http.HandlerFunc(whoami))
	for range 3 {
		pids(t, ctx, 5)
		s.Kill()
		must(t, s.Start())
		for range 10 {
			if rec := do(h, request("ann", "acme")); rec.Body.String() != "acme" {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
		}
	}
}
