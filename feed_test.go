package tenantdb_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestFeed_revocationByAnotherProgramEndsAccess(t *testing.T) {
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

// TestFeed_revocationWithoutTriggersEndsAccess deletes a membership while the triggers are disabled, as after
// a bulk load that left them so. No change is logged.
func TestFeed_revocationWithoutTriggersEndsAccess(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		joe := w.user("joe")
		membership := w.member(joe, w.tenant("acme", w.user("ann")), hostdb.RoleMember)
		disable := "ALTER TABLE core_memberships DISABLE TRIGGER core_memberships_changed"
		if w.engine == "sqlite" {
			disable = "DROP TRIGGER core_memberships_deleted"
		}
		other := w.behind()
		_, err := other.Exec(disable)
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

func TestFeed_closesTheDatabaseOfASuspendedTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		must(t, tenantdb.DB(ctx).PingContext(ctx))
		closed := closing(t, ctx)
		leave()
		feedStarted(t, mw) // the feed has started
		if closed() {
			t.Fatal("it closed with its last lease")
		}
		setStatus(hostdb.TenantSuspended)(w, acme)
		eventually(t, closed)
	})
}

func TestFeed_leavesOtherTenantsDatabasesOpen(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		mw := w.middleware(w.config())
		h := mw.Handler(http.HandlerFunc(whoami))
		mustServe(t, h, request("ann", "acme"))
		mustServe(t, h, request("ann", "other"))
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		closed := closing(t, ctx)
		leave()
		feedStarted(t, mw)
		w.update(acme, func(t *hostdb.TenantCatalog) { t.Name = "Acme Inc." }) // affects no connection
		setStatus(hostdb.TenantSuspended)(w, other)
		eventually(t, func() bool { return do(h, request("ann", "other")).Code == 403 })
		if closed() {
			t.Error("another's change closed it")
		}
	})
}

func TestMiddleware_Stats_countsLoadsAlsoAfterInvalidate(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme := w.tenant("acme", ann)
		mw := w.middleware(w.config())
		h := mw.Handler(http.HandlerFunc(whoami))
		feedStarted(t, mw)
		mustServe(t, h, request("ann", "acme"))
		mustServe(t, h, request("ann", "acme"))
		do(h, request("eve", "acme"))
		s := mw.Stats()
		if s.Entries != 1 || s.Denials != 1 || s.Hits == 0 || s.Loads < 2 || s.Misses < 2 ||
			s.LoadFailures != 0 || s.FeedFailing {
			t.Errorf("stats = %+v", s)
		}
		for _, forget := range []func(){
			func() { mw.Invalidate(ann.ID, "") },
			func() { mw.Invalidate("", acme.ID) },
		} {
			before := mw.Stats().Loads
			forget()
			mustServe(t, h, request("ann", "acme"))
			if after := mw.Stats().Loads; after == before {
				t.Error("an invalidated entry was served")
			}
		}
	})
}

func TestResolver_servesCachedMembersWhileTheHostDatabaseIsDown(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		cfg := w.config()
		cfg.Cache.MaxStaleness = 100 * time.Millisecond
		cfg.Cache.MaxStaleIfDown = 3 * time.Second
		mw := w.middleware(cfg)
		h := mw.Handler(http.HandlerFunc(whoami))
		feedStarted(t, mw) // the feed starts by dropping what was read before
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
			t.Errorf("refused %v after the database went down (stale facts served: %v); want 3 s", took,
				stale)
		}
	})
}

// TestFeed_changedPlanTakesEffect changes the plan that the tenant's own tier names, and the plan that a
// tenant subscribes to.
func TestFeed_changedPlanTakesEffect(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		free, paying := w.tenant("free", ann), w.tenant("paying", ann)
		plans := map[string]*hostdb.PricingPlan{
			free.Slug: {ID: "free", Name: "Free"}, paying.Slug: {ID: "pro", Name: "Pro"},
		}
		for _, plan := range plans {
			must(t, w.host.Plans.Insert(t.Context(), plan))
		}
		w.subscribe(paying, "pro")
		// otherwise the free plan's features apply too
		w.update(paying, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" })
		cfg := w.config()
		cfg.Cache.MaxAge = time.Hour
		mw := w.middleware(cfg)
		feedStarted(t, mw)
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

// attentive makes a middleware that polls for changes every 50 ms.
func (w *world) attentive(cfg tenantdb.Config) *tenantdb.Middleware {
	w.t.Helper()
	var err error
	cfg.Host, err = hostdb.OpenConfig(w.t.Context(), hostdb.Config{
		URL: hostdb.Secret(w.host.URI()), PollInterval: 50 * time.Millisecond,
	})
	must(w.t, err)
	w.t.Cleanup(func() { _ = cfg.Host.Close() })
	return w.middleware(cfg)
}

// served makes a tenant whose database is open and unused. The function closed reports whether that database
// has closed.
func served(t *testing.T, w *world, mw *tenantdb.Middleware) (tenant *hostdb.TenantCatalog,
	closed func() bool) {
	t.Helper()
	tenant = w.tenant("acme", w.user("ann"))
	ctx, leave, err := mw.Enter(t.Context(), tenant.ID)
	must(t, err)
	must(t, tenantdb.DB(ctx).PingContext(ctx))
	closed = closing(t, ctx)
	leave()
	feedStarted(t, mw)
	return tenant, closed
}

// TestFeed_failedReviewRetiresNobody reports a change of a tenant whose row can't be read, as its table has
// another name.
func TestFeed_failedReviewRetiresNobody(t *testing.T) {
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
		exec("INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', '"+acme.ID+"')",
			"ALTER TABLE core_tenants RENAME TO away")
		changed := time.Now()
		// the change was delivered and reviewed
		eventually(t, func() bool { return time.Since(changed) > mw.Stats().SincePoll+200*time.Millisecond })
		if closed() {
			t.Error("the tenant's database was closed")
		}
		exec("ALTER TABLE away RENAME TO core_tenants",
			"UPDATE core_tenants SET status = 'suspended' WHERE id = '"+acme.ID+"'")
		eventually(t, closed)
	})
}

// TestFeed_hangingReviewEndsAndIsRepeated locks the table of tenants, so that a lookup waits. The lookup
// times out, the tenant is served meanwhile, and the lookup is repeated.
func TestFeed_hangingReviewEndsAndIsRepeated(t *testing.T) {
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
	attempts := make(map[string]bool) // keyed by the start of their queries
	eventually(t, func() bool {
		rows, err := other.Query(`SELECT query_start::text FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`)
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
