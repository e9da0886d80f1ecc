package tenantdb_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestPool_looksUpARotatedPassword(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	user := role(t, "SUPERUSER PASSWORD 'first'")
	w.update(acme, func(t *hostdb.TenantCatalog) { t.DBURL = as(w.t, t.DBURL, user, "first") })
	there := w.elsewhere()
	h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
	for i := range 5 {
		if rec := do(h, request("ann", "acme")); rec.Code != 200 {
			t.Fatalf("before rotation %d: %d %s", i, rec.Code, rec.Body)
		}
		password := fmt.Sprintf("next%d", i)
		admin(t, "ALTER ROLE "+user+" PASSWORD '"+password+"'")
		there.update(acme, func(t *hostdb.TenantCatalog) { t.DBURL = as(w.t, t.DBURL, user, password) })
		w.pool.Retire(acme.ID) // open connections would need no new password
		answers := make(chan string, 20)
		together(20, func(int) { answers <- do(h, request("ann", "acme")).Body.String() })
		for range 20 {
			if got := <-answers; got != "acme" {
				t.Fatalf("after rotation %d: %s", i, got)
			}
		}
	}
	admin(t, "ALTER ROLE "+user+" PASSWORD 'nobody knows'")
	w.pool.Retire(acme.ID)
	if rec := do(h, request("ann", "acme")); rec.Code != 503 || code(t, rec) != "tenant_unavailable" {
		t.Errorf("with a password that the catalog doesn't know: %d %s", rec.Code, rec.Body)
	}
}

func TestPool_passwordRotatedUnderLoadFailsNoQuery(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	user := role(t, "SUPERUSER PASSWORD 'first'")
	w.update(acme, func(t *hostdb.TenantCatalog) { t.DBURL = as(w.t, t.DBURL, user, "first") })
	mw, there := w.middleware(w.config()), w.elsewhere()
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	tx, err := tenantdb.PG(ctx).Begin(ctx)
	must(t, err)
	h, stop, served := mw.Handler(http.HandlerFunc(whoami)), make(chan struct{}), make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		together(8, func(int) {
			for {
				select {
				case <-stop:
					return
				case served <- do(h, request("ann", "acme")).Body.String():
				}
			}
		})
	}()
	for i := range 5 {
		password := fmt.Sprintf("next%d", i)
		admin(t, "ALTER ROLE "+user+" PASSWORD '"+password+"'")
		there.update(acme, func(t *hostdb.TenantCatalog) { t.DBURL = as(w.t, t.DBURL, user, password) })
		fresh, leave, err := mw.Enter(t.Context(), acme.ID) // an uncached lookup starts the new generation
		must(t, err)
		ask[string](t, fresh, "SELECT name FROM me")
		leave()
		for range 100 { // nobody is refused
			if got := <-served; got != "acme" {
				t.Fatalf("rotation %d: %s", i, got)
			}
		}
	}
	close(stop)
	<-done
	var name string
	// begun on a connection of the first generation
	must(t, tx.QueryRow(ctx, "SELECT name FROM me").Scan(&name))
	must(t, tx.Commit(ctx))
}

func TestPool_olderFactsDoNotRestoreAnOldAddress(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		mw, there := w.middleware(w.config()), w.elsewhere()
		h := mw.Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("ann", "acme")); rec.Body.String() != "acme" { // cached from now on
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		moved := other.DBURL
		if w.engine == "sqlite" { // a relative path must be the tenant's own
			moved = hostdb.Secret("sqlite:" + w.sqliteFile(other))
		}
		there.update(acme, func(t *hostdb.TenantCatalog) { t.DBURL = moved })
		_, leave, err := mw.Enter(t.Context(), acme.ID) // Enter isn't cached, so it learns of the move first
		must(t, err)
		defer leave()
		for range 20 {
			if rec := do(h, request("ann", "acme")); rec.Body.String() != "other" {
				t.Fatalf("after the move: %d %s", rec.Code, rec.Body)
			}
		}
		lease, err := w.pool.Lease(acme) // a row of unknown age
		must(t, err)
		defer lease.Release()
		var name string
		must(t, lease.DB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
		if name != "other" {
			t.Errorf("a lease by the old row reads %q", name)
		}
	})
}
