package hostdb

import (
	"context"
	"time"
)

// The statuses of a tenant.
const (
	TenantProvisioning = "provisioning" // being set up
	TenantActive       = "active"
	TenantSuspended    = "suspended"   // closed to its members
	TenantMaintenance  = "maintenance" // closed for a moment
	TenantDropped      = "dropped"     // its database was removed; the row remains
)

// TierFree is the plan tier of a tenant without another one.
const TierFree = "free"

// TenantCatalog is a customer and the address of its database (core_tenants).
type TenantCatalog struct {
	ID        string
	Name      string // required
	DBURL     Secret // the address of the tenant's database, including the password
	IsActive  bool   // stored as given: false closes the tenant; [NewTenant] sets it
	PlanTier  string // a PricingPlan's ID, which may not exist; default TierFree
	CreatedAt time.Time
	Slug      string // the tenant's name in URLs ([ValidSlug]); unique if present
	Status    string // default TenantActive
	// SchemaVersion is the version of the tenant's own schema: the highest one below which no migration is
	// missing. 0 means unknown.
	SchemaVersion int64
	// SchemaSet is the id of the set of migrations that the database has ([SchemaSets]). "" means unknown.
	SchemaSet string
}

// NewTenant returns an open tenant with an id, a name and a slug ("" for none), on the tier TierFree. Insert
// stores it. Products that use package fleet call fleet.Provision instead.
func NewTenant(name, slug string) *TenantCatalog {
	return &TenantCatalog{ID: NewID(), Name: name, IsActive: true, PlanTier: TierFree, Slug: slug,
		Status: TenantActive}
}

// Open reports whether members may use the tenant: IsActive is set, and Status is TenantActive.
func (t *TenantCatalog) Open() bool {
	return t.IsActive && t.Status == TenantActive
}

var tenantStatuses = []string{TenantProvisioning, TenantActive, TenantSuspended, TenantMaintenance,
	TenantDropped}

var tenantRelation = relation[TenantCatalog]{
	table: "core_tenants", subject: "tenant", foreignKey: "tenant_id",
	referrers: []reference{{"tenant_id", "core_memberships"}, {"tenant_id", "core_subscriptions"}},
	columns: []column[TenantCatalog]{
		{"id", func(t *TenantCatalog) any { return &t.ID }, idRule},
		{"name", func(t *TenantCatalog) any { return &t.Name }, rule{required: true}},
		{"db_url", func(t *TenantCatalog) any { return &t.DBURL }, rule{maxBytes: maxLong, masked: true}},
		{"is_active", func(t *TenantCatalog) any { return &t.IsActive }, anyBool},
		{"plan_tier", func(t *TenantCatalog) any { return &t.PlanTier }, tierRule},
		{"created_at", func(t *TenantCatalog) any { return &t.CreatedAt }, anyTime},
		{"slug", func(t *TenantCatalog) any { return &t.Slug }, rule{valid: ValidSlug}},
		{"status", func(t *TenantCatalog) any { return &t.Status },
			rule{required: true, allowed: tenantStatuses}},
		{"schema_version", func(t *TenantCatalog) any { return &t.SchemaVersion }, rule{zeroIsNull: true}},
		{"schema_set", func(t *TenantCatalog) any { return &t.SchemaSet }, optionalID},
	},
	defaults: func(t *TenantCatalog) {
		setDefault(&t.PlanTier, TierFree)
		setDefault(&t.Status, TenantActive)
	},
}

// setDefault sets a text that is empty.
func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// Tenants is the table of tenants.
type Tenants struct{ Table[TenantCatalog] }

// BySlug returns the tenant with this slug. Errors: ErrNotFound; ErrInvalid.
func (t Tenants) BySlug(ctx context.Context, slug string) (*TenantCatalog, error) {
	if !ValidSlug(slug) {
		return nil, invalid("slug", "is malformed")
	}
	return t.one(ctx, "WHERE slug = $1", slug)
}

// ListForUser returns the tenants in which a user has an active membership, except dropped ones: at most
// 1,000, ordered by id. Errors: ErrInvalid.
func (t Tenants) ListForUser(ctx context.Context, userID string) ([]*TenantCatalog, error) {
	if err := idRule.checkText("user_id", userID); err != nil {
		return nil, err
	}
	return t.many(ctx, "WHERE id IN "+
		"(SELECT tenant_id FROM core_memberships WHERE user_id = $1 AND is_active)"+
		" AND status <> 'dropped' ORDER BY id LIMIT 1000", userID)
}
