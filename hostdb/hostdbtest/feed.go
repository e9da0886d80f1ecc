package hostdbtest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// quietColumns checks that the feed delivers a row that is written, but not columns that don't affect
// access.
func quietColumns(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	s := &hostdb.Subscription{TenantID: f.tenant.ID}
	must(t, db.Subscriptions.Insert(ctx, s))
	loud, at := hostdb.Change{Kind: hostdb.ChangePlan, PlanID: "pro"}, time.Now()
	write := func() error {
		f.user.PasswordHash, s.LastEventAt, s.LastEventRank, s.LastEventID = "other", &at, 3, "evt_1"
		f.tenant.SchemaSet = hostdb.NewID()
		return errors.Join(db.Tenants.Update(ctx, f.tenant), db.Users.RecordLogin(ctx, f.user.ID),
			db.Users.Update(ctx, f.user), db.Subscriptions.Update(ctx, s),
			db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: loud.PlanID, Name: "Pro"}))
	}
	var seen []hostdb.Change
	for d, err := range db.Changes(ctx) {
		must(t, err)
		if d.Reset {
			must(t, write())
			continue
		}
		if seen = append(seen, d.Changes...); slices.Contains(seen, loud) {
			break
		}
	}
	if len(seen) != 1 {
		t.Errorf("changes = %+v, want the plan's", seen)
	}
}
