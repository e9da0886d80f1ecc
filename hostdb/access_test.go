package hostdb_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// crowd stores n tenants, users and memberships (a multiple of n each), n subscriptions and 1,000 plans by
// SQL, and updates the planner's statistics. Ids are numbers in hexadecimal. A user's oauth_id is "o" and
// the id, a tenant's slug "s-" and the id.
func crowd(t testing.TB, db *hostdb.DB, n, users, memberships int) {
	t.Helper()
	series, hex := "generate_series(0, %d) AS g(i)", "lpad(to_hex(%s), 32, '0')"
	if strings.HasPrefix(db.URI(), "sqlite") {
		series, hex = "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "+
			"SELECT i FROM n) AS g", "printf('%%032x', %s)"
	}
	id := func(of string) string { return fmt.Sprintf(hex, of) }
	rows := func(count int) string { return fmt.Sprintf(series, count-1) }
	statements := []string{
		"INSERT INTO core_pricing_plans (id, name) SELECT 'plan-' || i, 'Plan' FROM " + rows(1000),
		"INSERT INTO core_tenants (id, name, slug, plan_tier) SELECT " + id("i") + ", 'T', 's-' || " +
			id("i") + ", 'plan-' || (i % 1000) FROM " + rows(n),
		"INSERT INTO core_users (id, email, oauth_id) SELECT " + id("i") + ", i || '@b', 'o' || " + id("i") +
			" FROM " + rows(users),
		fmt.Sprintf("INSERT INTO core_memberships (id, user_id, tenant_id, role) "+
			"SELECT %s, %s, %s, 'member' FROM %s", id("i"), id(fmt.Sprintf("i %% %d", users)),
			id(fmt.Sprintf("(i + i / %d) %% %d", users, n)), rows(memberships)),
		"INSERT INTO core_subscriptions (id, tenant_id, status, plan_tier) SELECT " + id("i") + ", " +
			id("i") + ", 'active', 'plan-' || (i % 1000) FROM " + rows(n),
		"ANALYZE",
	}
	pool := db.Bare()
	if strings.HasPrefix(db.URI(), "sqlite") {
		pool = raw(t, db)
	}
	dropTriggers(t, pool, db)
	for _, statement := range statements {
		if _, err := pool.Exec(statement); err != nil {
			t.Fatalf("%.60s: %v", statement, err)
		}
	}
}

// dropTriggers makes a bulk load fast. Afterwards the database is only good for reading.
func dropTriggers(t testing.TB, pool *sql.DB, db *hostdb.DB) {
	t.Helper()
	list := "SELECT 'ALTER TABLE ' || relname || ' DISABLE TRIGGER ALL' FROM pg_class " +
		"WHERE relname LIKE 'core\\_%' AND relkind = 'r'"
	if strings.HasPrefix(db.URI(), "sqlite") {
		list = "SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger'"
	}
	rows, err := pool.Query(list)
	must(t, err)
	defer rows.Close()
	var statements []string
	for rows.Next() {
		var statement string
		must(t, rows.Scan(&statement))
		statements = append(statements, statement)
	}
	must(t, rows.Close())
	for _, statement := range statements {
		_, err := pool.Exec(statement)
		must(t, err)
	}
}

func hexID(n int) string {
	return fmt.Sprintf("%032x", n)
}

func TestDB_Access_scansNoTable(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"postgres": postgresURL, "file": fileURL} {
		t.Run(name, func(t *testing.T) {
			tenants := 100_000
			// The race detector makes SQLite twenty times slower.
			if testing.Short() || underRace && name == "file" {
				tenants = 3_000
			}
			db := open(t, hostdb.Config{URL: hostdb.Secret(place(t))})
			crowd(t, db, tenants, tenants, 2*tenants)
			for keys, text := range db.AccessQueries() {
				user, tenant := hexID(7), hexID(7)
				if keys[0] == "oauth_id" {
					user = "o" + user
				}
				if keys[1] == "slug" {
					tenant = "s-" + tenant
				}
				scansNothing(t, keys, explain(t, db, text, user, tenant))
			}
			for keys, text := range db.AccessBatchQueries() {
				args := []any{[]string{hexID(7), hexID(8)}, []string{hexID(7), hexID(8)}}
				switch {
				case name == "file" && keys[1] == "":
					args = []any{`["` + hexID(7) + `"]`}
				case name == "file":
					args = []any{`[["` + hexID(7) + `","` + hexID(7) + `"]]`}
				case keys[1] == "":
					args = args[:1]
				}
				scansNothing(t, keys, explain(t, db, text, args...))
			}
			a, err := db.Access(t.Context(), hostdb.UserKey{OAuthID: "o" + hexID(7)},
				hostdb.TenantKey{Slug: "s-" + hexID(7)})
			must(t, err)
			if a.Membership == nil || len(a.Subscriptions) != 1 || a.Subscriptions[0].Plan == nil ||
				a.TenantPlan == nil {
				t.Errorf("access = %+v", a)
			}
		})
	}
}

// scansNothing fails if a plan scans anything but the given keys.
func scansNothing(t *testing.T, keys [2]string, plan string) {
	t.Helper()
	plan = strings.NewReplacer("SCAN CONSTANT ROW", "", "SCAN one", "", "SCAN json_each", "", "SCAN k", "",
		// The windows over one tenant's subscriptions.
		"SCAN ranked", "", "SCAN (subquery", "").Replace(plan)
	for _, scan := range []string{"Seq Scan", "SCAN ", "AUTOMATIC", "Hash Join"} {
		if strings.Contains(plan, scan) {
			t.Errorf("%v: %q in the plan:\n%s", keys, scan, plan)
		}
	}
}

// explain returns the plan of a query. For PostgreSQL it is the generic plan, which a prepared statement may
// get.
func explain(t testing.TB, db *hostdb.DB, text string, args ...any) string {
	t.Helper()
	var plan strings.Builder
	if strings.HasPrefix(db.URI(), "sqlite") {
		rows, err := db.Bare().Query("EXPLAIN QUERY PLAN "+text, args...)
		must(t, err)
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var line string
			must(t, rows.Scan(&id, &parent, &unused, &line))
			plan.WriteString(line + "\n")
		}
		return plan.String()
	}
	tx, err := db.Bare().Begin()
	must(t, err)
	defer tx.Rollback()
	for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
		_, err = tx.Exec("SET LOCAL plan_cache_mode = " + mode)
		must(t, err)
		rows, err := tx.Query("EXPLAIN "+text, args...)
		must(t, err)
		for rows.Next() {
			var line string
			must(t, rows.Scan(&line))
			plan.WriteString(line + "\n")
		}
		rows.Close()
	}
	return plan.String()
}

// Rows that grant access no longer than another row of their status and plan are left out, so that many of
// them displace nothing. The highest tier comes first.
func TestDB_Access_returnsWhatAdmitsLongestOfEachStatusAndPlan(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		u, tn := newUser(t, db), newTenant(t, db)
		newMember(t, db, u, tn, hostdb.RoleOwner)
		must(t, db.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "basic", Name: "Basic", TierLevel: 1}))
		must(t, db.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "top", Name: "Top", TierLevel: 9}))
		day := func(n int) *time.Time {
			end := time.Date(2030, 1, n, 0, 0, 0, 0, time.UTC)
			return &end
		}
		for i := range 20 {
			for _, status := range []string{"canceled", "active", "trialing", "past_due"} {
				must(t, db.Subscriptions.Insert(t.Context(),
					&hostdb.Subscription{TenantID: tn.ID, PlanTier: "basic", Status: status,
						CurrentPeriodEnd: day(1 + i), TrialEnd: day(1 + i)}))
			}
		}
		must(t, db.Subscriptions.Insert(t.Context(),
			&hostdb.Subscription{TenantID: tn.ID, PlanTier: "top", Status: "active"}))
		must(t, db.Subscriptions.Insert(t.Context(),
			&hostdb.Subscription{TenantID: tn.ID, PlanTier: "top", Status: "active",
				CurrentPeriodEnd: day(1)}))
		must(t, db.Subscriptions.Insert(t.Context(),
			&hostdb.Subscription{TenantID: tn.ID, PlanTier: "top", Status: "active",
				PaymentType: hostdb.PaymentOneTime}))

		want := "top active subscription never; basic active subscription 20; basic trialing subscription " +
			"20; basic past_due subscription 20; " +
			"basic canceled subscription 20; top active one_time never; "
		one, err := db.Access(t.Context(), hostdb.UserKey{ID: u.ID}, hostdb.TenantKey{ID: tn.ID})
		must(t, err)
		all, err := db.AccessAll(t.Context(),
			[]hostdb.AccessKey{{User: hostdb.UserKey{ID: u.ID}, Tenant: hostdb.TenantKey{ID: tn.ID}}})
		must(t, err)
		for name, a := range map[string]*hostdb.Access{"Access": one, "AccessAll": &all[0].Access} {
			got := ""
			for _, s := range a.Subscriptions {
				end := "never"
				if s.CurrentPeriodEnd != nil {
					end = fmt.Sprint(s.CurrentPeriodEnd.Day())
				}
				got += s.PlanTier + " " + s.Status + " " + s.PaymentType + " " + end + "; "
			}
			if got != want {
				t.Errorf("%s: %s\nwant: %s", name, got, want)
			}
		}
	})
}

func TestDB_SoleTenants_leavesOutWhatCannotBeEntered(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, u := t.Context(), newUser(t, db)
		sole := func() int {
			t.Helper()
			ids, err := db.SoleTenants(ctx, hostdb.UserKey{ID: u.ID})
			must(t, err)
			return len(ids)
		}
		if sole() != 0 {
			t.Error("a stranger has tenants")
		}
		first := newTenant(t, db)
		newMember(t, db, newUser(t, db), first, hostdb.RoleOwner)
		m := newMember(t, db, u, first, hostdb.RoleMember)
		for range 3 {
			newMember(t, db, u, newTenant(t, db), hostdb.RoleMember)
		}
		if sole() != 2 {
			t.Errorf("%d of 4 tenants, want 2", sole())
		}
		rows, err := db.Memberships.ListForUser(ctx, u.ID)
		must(t, err)
		for _, other := range rows {
			if other.ID != m.ID {
				other.IsActive = false
				must(t, db.Memberships.Update(ctx, other))
			}
		}
		for status, want := range map[string]int{"active": 1, "suspended": 1, "maintenance": 1, "dropped": 0,
			"provisioning": 0} {
			first.Status = status
			must(t, db.Tenants.Update(ctx, first))
			if sole() != want {
				t.Errorf("%d tenants with the status %s, want %d", sole(), status, want)
			}
		}
	})
}

func TestSubscription_ActiveAt(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	before, at, after := now.Add(-1), now, now.Add(1)
	grace := now.Add(-hostdb.DefaultGrace)
	lastGrace := grace.Add(1)
	for i, c := range []struct {
		s    hostdb.Subscription
		want bool
	}{
		{hostdb.Subscription{}, false},
		{hostdb.Subscription{Status: "active"}, true},
		{hostdb.Subscription{Status: "active", CurrentPeriodEnd: &before}, true},
		{hostdb.Subscription{Status: "active", PaymentType: hostdb.PaymentOneTime}, false},
		{hostdb.Subscription{Status: "active", PaymentType: "cash"}, false},
		{hostdb.Subscription{Status: "ACTIVE"}, false},
		{hostdb.Subscription{Status: "trialing"}, false},
		{hostdb.Subscription{Status: "trialing", CurrentPeriodEnd: &after}, false},
		{hostdb.Subscription{Status: "trialing", TrialEnd: &after}, true},
		{hostdb.Subscription{Status: "trialing", TrialEnd: &at}, false},
		{hostdb.Subscription{Status: "trialing", TrialEnd: &before}, false},
		{hostdb.Subscription{Status: "past_due"}, false},
		{hostdb.Subscription{Status: "past_due", CurrentPeriodEnd: &before}, true},
		{hostdb.Subscription{Status: "past_due", CurrentPeriodEnd: &lastGrace}, true},
		{hostdb.Subscription{Status: "past_due", CurrentPeriodEnd: &grace}, false},
		{hostdb.Subscription{Status: "incomplete", CurrentPeriodEnd: &after, TrialEnd: &after}, false},
		{hostdb.Subscription{Status: "unpaid", CurrentPeriodEnd: &after, TrialEnd: &after}, false},
		{hostdb.Subscription{Status: "canceled", CurrentPeriodEnd: &after, TrialEnd: &after}, false},
		{hostdb.Subscription{Status: "paused", CurrentPeriodEnd: &after, TrialEnd: &after}, false},
		{hostdb.Subscription{Status: "some_new_word", CurrentPeriodEnd: &after, TrialEnd: &after}, false},
	} {
		if c.s.PaymentType == "" {
			c.s.PaymentType = hostdb.PaymentSubscription
		}
		if got := c.s.ActiveAt(now, hostdb.DefaultGrace); got != c.want {
			t.Errorf("%d: ActiveAt = %v, want %v: %+v", i, got, c.want, c.s)
		}
	}
}

func TestTenantCatalog_Open_needsIsActiveAndStatus(t *testing.T) {
	for _, status := range []string{"provisioning", "active", "suspended", "maintenance", "dropped", ""} {
		for _, active := range []bool{true, false} {
			tenant := hostdb.TenantCatalog{Status: status, IsActive: active}
			if got, want := tenant.Open(), active && status == "active"; got != want {
				t.Errorf("Open = %v with %q, %v", got, status, active)
			}
		}
	}
}
