package hostdb

import (
	"context"
	"database/sql"
	"strings"
	"sync"
)

// UserKey names a user by id or by the subject at the identity provider. Exactly one field is set.
type UserKey struct{ ID, OAuthID string }

// TenantKey names a tenant by id or by slug. Exactly one field is set.
type TenantKey struct{ ID, Slug string }

// Access is what the host database knows about a user in a tenant. It contains no decision: the tenant may
// be closed, the membership inactive, the subscription over.
type Access struct {
	User       *GlobalUser    // nil if unknown; without PasswordHash
	Tenant     *TenantCatalog // nil if unknown
	Membership *Membership    // nil if there is none
	// Subscriptions are the tenant's, if there is a membership: of each status and plan the one that grants
	// access longest, at most 64. They are ordered by status (active, trialing, past_due, others), then by
	// descending tier_level, then by descending period end. One-time payments come last. Of those that grant
	// access at a time, the one with the highest tier_level is in force.
	Subscriptions []Subscribed
	TenantPlan    *PricingPlan // the plan of the tenant's PlanTier; nil if there is none
}

// Subscribed is a subscription with its plan.
type Subscribed struct {
	Subscription
	Plan *PricingPlan // nil if there is none
}

// preparedAccess holds SQLite's prepared statements. The PostgreSQL driver prepares its own.
type preparedAccess struct {
	mu         sync.Mutex
	statements map[string]*sql.Stmt
}

// check validates the key and returns its column and value.
func (k UserKey) check() (column, value string, err error) {
	switch {
	case (k.ID == "") == (k.OAuthID == ""):
		return "", "", invalid("user", "exactly one of ID and OAuthID is needed")
	case k.ID != "":
		return "id", k.ID, idRule.checkText("user_id", k.ID)
	}
	return "oauth_id", k.OAuthID, anyText.checkText("oauth_id", k.OAuthID)
}

// check validates the key and returns its column and value.
func (k TenantKey) check() (column, value string, err error) {
	switch {
	case (k.ID == "") == (k.Slug == ""):
		return "", "", invalid("tenant", "exactly one of ID and Slug is needed")
	case k.ID != "":
		return "id", k.ID, idRule.checkText("tenant_id", k.ID)
	}
	return "slug", k.Slug, rule{valid: ValidSlug}.checkText("slug", k.Slug)
}

// accessUser is the users' relation without the password's hash.
var accessUser = func() relation[GlobalUser] {
	r := userRelation
	r.columns = nil
	for _, c := range userRelation.columns {
		if c.name != "password_hash" {
			r.columns = append(r.columns, c)
		}
	}
	return r
}()

// bestFirst returns the order of subscriptions with this alias, joined with their plans as sp.
func bestFirst(alias string) string {
	return strings.ReplaceAll(`(s.payment_type = 'one_time'),
		CASE s.status WHEN 'active' THEN 0 WHEN 'trialing' THEN 1 WHEN 'past_due' THEN 2 ELSE 3 END,
		sp.tier_level DESC NULLS LAST, s.current_period_end DESC NULLS LAST, s.id`, "s.", alias+".")
}

// admittingLongest selects a tenant's subscriptions of which none of the same status and plan grants access
// longer. The others never matter, so that a large number of them can't displace one that grants more from
// [DB.Access].
var admittingLongest = `(SELECT s.*, row_number() OVER (
		PARTITION BY s.payment_type, s.status, s.plan_tier, s.stripe_sub_id IS NULL
		ORDER BY (CASE WHEN s.status = 'active' AND s.current_period_end IS NULL THEN 0 ELSE 1 END),
			CASE s.status WHEN 'trialing' THEN s.trial_end ELSE s.current_period_end
			END DESC NULLS LAST, s.id) AS nth
	FROM core_subscriptions s WHERE s.tenant_id = m.tenant_id) ranked
	LEFT JOIN core_pricing_plans sp ON sp.id = ranked.plan_tier
	WHERE ranked.nth = 1 ORDER BY ` + bestFirst("ranked") + " LIMIT 64"

// accessSubscriptions joins the subscriptions of a membership's tenant. SQLite has no LATERAL and selects
// them by id.
var accessSubscriptions = map[engine]string{
	postgres: "LEFT JOIN LATERAL (SELECT ranked.* FROM " + admittingLongest + ") s ON true",
	sqlite:   "LEFT JOIN core_subscriptions s ON s.id IN (SELECT ranked.id FROM " + admittingLongest + ")",
}

// accessColumns are the columns that readAccess scans.
var accessColumns = strings.Join(
	[]string{accessUser.columnsOf("u"), tenantRelation.columnsOf("t"), membershipRelation.columnsOf("m"),
		planRelation.columnsOf("tp"), subscriptionRelation.columnsOf("s"), planRelation.columnsOf("sp")},
	", ")

// accessJoins joins a user, a tenant, their membership and the tenant's plan. Each join finds at most one
// row.
func accessJoins(user, tenant string) string {
	return `
		LEFT JOIN core_users u ON ` + user + `
		LEFT JOIN core_tenants t ON ` + tenant + `
		LEFT JOIN core_memberships m ON m.user_id = u.id AND m.tenant_id = t.id
		LEFT JOIN core_pricing_plans tp ON tp.id = t.plan_tier
		`
}

// accessQuery returns the query for a user and a tenant. It always returns a row, whatever is unknown.
func accessQuery(e engine, kind accessKind) string {
	return "SELECT " + accessColumns + " FROM (SELECT 1) AS one" +
		accessJoins("u."+kind.user+" = $1", "t."+kind.tenant+" = $2") + accessSubscriptions[e] + `
		LEFT JOIN core_pricing_plans sp ON sp.id = s.plan_tier
		ORDER BY ` + bestFirst("s")
}

// accessQueries are the queries for every kind of key.
var accessQueries = queriesFor(accessQuery, "id", "slug")

// queriesFor builds each engine's queries for all kinds of keys with these tenant columns.
func queriesFor(build func(engine, accessKind) string, tenants ...string) map[engine]map[accessKind]string {
	queries := map[engine]map[accessKind]string{postgres: {}, sqlite: {}}
	for e, of := range queries {
		for _, user := range []string{"id", "oauth_id"} {
			for _, tenant := range tenants {
				kind := accessKind{user, tenant}
				of[kind] = build(e, kind)
			}
		}
	}
	return queries
}

// Access returns what is known about a user in a tenant, with one indexed query, which is the same whether
// they exist or not. See [DB.AccessAll] for many. Errors: ErrInvalid for a key without exactly one field, or
// with a malformed one; ErrUnavailable.
func (db *DB) Access(ctx context.Context, user UserKey, tenant TenantKey) (*Access, error) {
	userColumn, userValue, err := user.check()
	if err != nil {
		return nil, err
	}
	tenantColumn, tenantValue, err := tenant.check()
	if err != nil {
		return nil, err
	}
	var found *Access
	err = db.lookUp(ctx, accessQueries[db.engine][accessKind{userColumn, tenantColumn}],
		[]any{userValue, tenantValue}, func(row scanner) error {
			read, err := readAccess(row)
			if err != nil {
				return err
			}
			if found == nil {
				found = read
			} else {
				found.Subscriptions = append(found.Subscriptions, read.Subscriptions...)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// lookUp runs an access query on a connection that no other queries use.
func (db *DB) lookUp(ctx context.Context, text string, args []any, each func(scanner) error) error {
	if err := db.usable(); err != nil {
		return err
	}
	s := session{db: db}
	var on queryer = db.lookups
	if db.engine == sqlite {
		prepared, err := db.access.prepare(ctx, db.lookups, text)
		if err != nil {
			return s.fail(ctx, err, asReported)
		}
		on = prepared
	}
	return s.queryRows(ctx, on, text, args, each)
}

// readAccess scans one row: an Access with at most one subscription. Each record is allocated separately, so
// that retaining one doesn't retain the others.
func readAccess(row scanner) (*Access, error) {
	var (
		user             = new(GlobalUser)
		tenant           = new(TenantCatalog)
		membership       = new(Membership)
		tenantPlan, plan = new(PricingPlan), new(PricingPlan)
		subscription     Subscription
	)
	cells := accessUser.scanTargets(user, make([]any, 0, 72))
	cells = tenantRelation.scanTargets(tenant, cells)
	cells = membershipRelation.scanTargets(membership, cells)
	cells = planRelation.scanTargets(tenantPlan, cells)
	cells = subscriptionRelation.scanTargets(&subscription, cells)
	cells = planRelation.scanTargets(plan, cells)
	if err := row.Scan(cells...); err != nil {
		return nil, err
	}
	user.partial = true
	found := &Access{User: nilIfAbsent(user, user.ID), Tenant: nilIfAbsent(tenant, tenant.ID),
		Membership: nilIfAbsent(membership, membership.ID),
		TenantPlan: nilIfAbsent(tenantPlan, tenantPlan.ID)}
	if subscription.ID != "" {
		found.Subscriptions = []Subscribed{{subscription, nilIfAbsent(plan, plan.ID)}}
	}
	return found, nil
}

// nilIfAbsent returns nil for a row that an outer join didn't find.
func nilIfAbsent[M any](m *M, id string) *M {
	if id == "" {
		return nil
	}
	return m
}

// prepare returns the statement for a query. It is prepared at first use.
func (p *preparedAccess) prepare(ctx context.Context, pool *sql.DB, text string) (preparedQuery, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stmt := p.statements[text]; stmt != nil {
		return preparedQuery{stmt}, nil
	}
	stmt, err := pool.PrepareContext(ctx, text)
	if err != nil {
		return preparedQuery{}, err
	}
	if p.statements == nil {
		p.statements = map[string]*sql.Stmt{}
	}
	p.statements[text] = stmt
	return preparedQuery{stmt}, nil
}

// preparedQuery runs one prepared statement.
type preparedQuery struct{ stmt *sql.Stmt }

// QueryContext runs the statement. It ignores the text.
func (p preparedQuery) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.stmt.QueryContext(ctx, args...)
}

// SoleTenants returns the ids of at most two tenants, neither dropped nor being provisioned, in which a user
// has an active membership. Two are enough to tell whether there is exactly one. Errors: ErrInvalid for a
// key without exactly one field, or with a malformed one; ErrUnavailable.
func (db *DB) SoleTenants(ctx context.Context, user UserKey) ([]string, error) {
	column, value, err := user.check()
	if err != nil {
		return nil, err
	}
	var ids []string
	err = session{db: db}.query(ctx, `SELECT t.id FROM core_users u JOIN core_memberships m
		ON m.user_id = u.id
		JOIN core_tenants t ON t.id = m.tenant_id
		WHERE u.`+column+` = $1 AND m.is_active AND t.status NOT IN ('dropped', 'provisioning') ORDER BY t.id
			LIMIT 2`,
		[]any{value}, appendText(&ids))
	return ids, err
}
