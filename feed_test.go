package tenantdb_test

import (
	"context"
	"database/sql"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestARevocationByAnotherProgramEndsAccessInTime(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		joe := w.user("joe")
		membership := w.member(joe, w.tenant("acme", w.user("ann")), hostdb.RoleMember)
		h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("joe", "acme")); rec.Code != 200 {
			t.Fatalf("joe is not in: %d", rec.Code)
		}
		other, err := hostdb.Open(t.Context(), w.host.URI())
		must(t, err)
		defer other.Close()
		must(t, other.Memberships.Delete(t.Context(), membership.ID))
		committed := time.Now()
		eventually(t, func() bool { return do(h, request("joe", "acme")).Code == 403 })
		if late := time.Since(committed); late > 3*time.Second {
			t.Errorf("joe was in for %v after the revocation; the bound is 3 s", late)
		}
		must(t, other.Memberships.Insert(t.Context(), membership))
		eventually(t, func() bool { return do(h, request("joe", "acme")).Code == 200 })
	})
}

// TestARevocationPastDisabledTriggersEndsAccessInTime: no change is logged, as after a bulk load that left
// the triggers disabled.
func TestARevocationPastDisabledTriggersEndsAccessInTime(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		joe := w.user("joe")
		membership := w.member(joe, w.tenant("acme", w.user("ann")), hostdb.RoleMember)
		driver, source, disable := "pgx", w.host.URI(), "ALTER TABLE core_memberships DISABLE TRIGGER core_memberships_changed"
		if path, isFile := strings.CutPrefix(source, "sqlite:"); isFile {
			driver, source, disable = "sqlite", "file:"+path+"?_busy_timeout=10000", "DROP TRIGGER core_memberships_deleted"
		}
		other, err := sql.Open(driver, source)
		must(t, err)
		defer other.Close()
		_, err = other.Exec(disable)
		must(t, err)
		mw := w.middleware(w.config())
		h := mw.Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("joe", "acme")); rec.Code != 200 {
			t.Fatalf("joe is not in: %d", rec.Code)
		}
		_, err = other.Exec("DELETE FROM core_memberships WHERE id = $1", membership.ID)
		must(t, err)
		eventually(t, func() bool { return do(h, request("joe", "acme")).Code == 403 })
		if !mw.Stats().FeedFailing {
			t.Error("the feed doesn't count as failing")
		}
	})
}

func TestTheDatabaseOfASuspendedTenantClosesWithoutARequest(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		must(t, tenantdb.DB(ctx).PingContext(ctx))
		closed := closing(t, ctx)
		leave()
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 }) // the feed is under way
		if closed() {
			t.Fatal("it closed with its last lease")
		}
		setStatus(hostdb.TenantSuspended)(w, acme)
		eventually(t, closed)
	})
}

func TestChangesElsewhereLeaveOtherTenantsDatabasesOpen(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		mw := w.middleware(w.config())
		h := mw.Handler(http.HandlerFunc(whoami))
		do(h, request("ann", "acme"))
		do(h, request("ann", "other"))
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		closed := closing(t, ctx)
		leave()
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
		w.update(acme, func(t *hostdb.TenantCatalog) { t.Name = "Acme Inc." }) // bears on no connection
		setStatus(hostdb.TenantSuspended)(w, other)
		eventually(t, func() bool { return do(h, request("ann", "other")).Code == 403 })
		if closed() {
			t.Error("another's change closed it")
		}
	})
}

func TestStatsAndInvalidate(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme := w.tenant("acme", ann)
		mw := w.middleware(w.config())
		h := mw.Handler(http.HandlerFunc(whoami))
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
		do(h, request("ann", "acme"))
		do(h, request("ann", "acme"))
		do(h, request("eve", "acme"))
		s := mw.Stats()
		if s.Entries != 1 || s.Denials != 1 || s.Hits == 0 || s.Loads < 2 || s.Misses < 2 || s.LoadFailures != 0 || s.FeedFailing {
			t.Errorf("stats = %+v", s)
		}
		for _, forget := range []func(){func() { mw.Invalidate(ann.ID, "") }, func() { mw.Invalidate("", acme.ID) }} {
			before := mw.Stats().Loads
			forget()
			do(h, request("ann", "acme"))
			if after := mw.Stats().Loads; after == before {
				t.Error("an invalidated entry was served")
			}
		}
	})
}

func TestCachedMembersAreServedWhileTheHostDatabaseIsDown(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		cfg := w.config()
		cfg.Cache.MaxStaleness = 100 * time.Millisecond
		cfg.Cache.MaxStaleIfDown = 3 * time.Second
		mw := w.middleware(cfg)
		h := mw.Handler(http.HandlerFunc(whoami))
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 }) // the feed begins by forgetting what was read before it
		eventually(t, func() bool { return do(h, request("ann", "acme")).Code == 200 })
		must(t, w.host.Close())
		down := time.Now()
		stale := false
		eventually(t, func() bool {
			rec := do(h, request("ann", "acme"))
			stale = stale || rec.Code == 200 && mw.Stats().StaleServes > 0
			return rec.Code == 503 && code(t, rec) == "host_unavailable"
		})
		if took := time.Since(down); !stale || took < 2*time.Second {
			t.Errorf("refused %v after the database went down (stale facts served: %v); it should serve for 3 s", took, stale)
		}
	})
}

// TestAChangedPlanIsFelt, the one that the tenant's own tier names and the one that it subscribes to.
func TestAChangedPlanIsFelt(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		free, paying := w.tenant("free", ann), w.tenant("paying", ann)
		plans := map[string]*hostdb.PricingPlan{free.Slug: {ID: "free", Name: "Free"}, paying.Slug: {ID: "pro", Name: "Pro"}}
		for _, plan := range plans {
			must(t, w.host.Plans.Insert(t.Context(), plan))
		}
		w.subscribe(paying, "pro")
		w.update(paying, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" }) // else the free plan's features are theirs too
		cfg := w.config()
		cfg.Cache.MaxAge = time.Hour
		mw := w.middleware(cfg)
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
		h := mw.Handler(tenantdb.RequireFeature("export")(http.HandlerFunc(whoami)))
		for slug, plan := range plans {
			if rec := do(h, request("ann", slug)); rec.Code != 403 {
				t.Errorf("%s: a feature that the plan lacks: %d %s", slug, rec.Code, rec.Body)
			}
			plan.Features = []string{"export"}
			must(t, w.host.Plans.Update(t.Context(), plan))
			eventually(t, func() bool { return do(h, request("ann", slug)).Code == 200 })
		}
	})
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

// attentive is a middleware that soon hears of changes.
func (w *world) attentive(cfg tenantdb.Config) *tenantdb.Middleware {
	w.t.Helper()
	var err error
	cfg.Host, err = hostdb.OpenConfig(w.t.Context(), hostdb.Config{URL: hostdb.Secret(w.host.URI()), PollInterval: 50 * time.Millisecond})
	must(w.t, err)
	w.t.Cleanup(func() { _ = cfg.Host.Close() })
	return w.middleware(cfg)
}

// served returns a tenant's row, and what tells whether its database was closed. Nobody holds it.
func served(t *testing.T, w *world, mw *tenantdb.Middleware) (tenant *hostdb.TenantCatalog, closed func() bool) {
	t.Helper()
	tenant = w.tenant("acme", w.user("ann"))
	ctx, leave, err := mw.Enter(t.Context(), tenant.ID)
	must(t, err)
	must(t, tenantdb.DB(ctx).PingContext(ctx))
	closed = closing(t, ctx)
	leave()
	eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
	return tenant, closed
}

// The tenant is said to have changed, and its row can't be read: the table has another name.
func TestAReviewThatFailsRetiresNobody(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		mw := w.attentive(w.config())
		acme, closed := served(t, w, mw)
		other := w.behind()
		exec := func(statements ...string) {
			t.Helper()
			tx, err := other.Begin()
			must(t, err)
			for _, statement := range statements {
				_, err := tx.Exec(statement)
				must(t, err)
			}
			must(t, tx.Commit())
		}
		exec("INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', '"+acme.ID+"')", "ALTER TABLE core_tenants RENAME TO away")
		changed := time.Now()
		eventually(t, func() bool { return time.Since(changed) > mw.Stats().SincePoll+200*time.Millisecond }) // the change was delivered, and reviewed
		if closed() {
			t.Error("the tenant's database was closed")
		}
		exec("ALTER TABLE away RENAME TO core_tenants", "UPDATE core_tenants SET status = 'suspended' WHERE id = '"+acme.ID+"'")
		eventually(t, closed)
	})
}

// A row that is locked makes a lookup wait. It ends, the tenant is served, and it is looked at again.
func TestAReviewThatHangsEndsAndIsMadeAgain(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Cache.LoadTimeout = 200 * time.Millisecond
	mw := w.attentive(cfg)
	acme, closed := served(t, w, mw)
	other := w.behind()
	tx, err := other.Begin()
	must(t, err)
	defer tx.Rollback()
	_, err = tx.Exec("LOCK TABLE core_tenants IN ACCESS EXCLUSIVE MODE")
	must(t, err)
	_, err = other.Exec("INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', $1)", acme.ID)
	must(t, err)
	attempts := make(map[string]bool) // by when their queries began
	eventually(t, func() bool {
		rows, err := other.Query("SELECT query_start::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
		must(t, err)
		defer rows.Close()
		for rows.Next() {
			var began string
			must(t, rows.Scan(&began))
			attempts[began] = true
		}
		must(t, rows.Err())
		return len(attempts) > 1
	})
	if closed() {
		t.Error("the tenant's database was closed")
	}
	_, err = tx.Exec("UPDATE core_tenants SET status = 'suspended' WHERE id = $1", acme.ID)
	must(t, err)
	must(t, tx.Commit())
	eventually(t, closed)
}
