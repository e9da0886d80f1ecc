package hostdbtest

import (
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

func erasure(t *testing.T, db *hostdb.DB) {
	ctx, f := hostdb.WithActor(t.Context(), "actor"), newFixture(t, db)
	user := &hostdb.GlobalUser{Email: "kim@example.com", OAuthID: "auth|kim-1", StripeCustID: "cus_<kim>"}
	must(t, db.Users.Insert(ctx, user))
	user.Email, user.StripeCustID = "kim.b@example.com", ""
	must(t, db.Users.Update(ctx, user))
	must(t, db.Memberships.Insert(ctx,
		&hostdb.Membership{UserID: user.ID, TenantID: f.tenant.ID, IsActive: true}))
	must(t, db.AuditLogs.Insert(ctx,
		&hostdb.HostAuditLog{EventType: "invited", ActorUserID: "actor", PersonalOf: user.ID,
			Details: `{"name":"Kim"}`, IPAddress: "::1"}))
	sub := &hostdb.Subscription{TenantID: f.tenant.ID, StripeCustID: "cus_<kim>"}
	must(t, db.Subscriptions.Insert(ctx, sub))
	logs, err := db.AuditLogs.ListForTarget(ctx, user.ID)
	must(t, err)
	same(t, "details of the creation", strings.Contains(logs[0].Details, `"email":"kim@example.com"`), true)
	changed := `{"email":["kim@example.com","kim.b@example.com"],"stripe_cust_id":["cus_\u003ckim\u003e",""]}`
	same(t, "details of the change", logs[1].Details, changed)

	_, err = db.Erase(ctx, f.user.ID)
	refused(t, err, hostdb.ErrConflict, "last_owner")
	tables := map[string]int{}
	for row, err := range db.Export(ctx, user.ID) {
		must(t, err)
		tables[row.Table]++
	}
	same(t, "exported users", tables["core_users"], 1)
	same(t, "exported memberships", tables["core_memberships"], 1)
	same(t, "exported subscriptions", tables["core_subscriptions"], 1)
	same(t, "exported audit rows", tables["sys_audit_logs"], 4)

	report, err := db.Erase(ctx, user.ID)
	must(t, err)
	same(t, "memberships", report.Memberships, 1)
	same(t, "subscriptions", report.Subscriptions, 1)
	same(t, "audit rows in clear", report.AuditRowsInClear, 0)
	_, err = db.Users.Get(ctx, user.ID)
	refused(t, err, hostdb.ErrNotFound, "")
	for log, err := range db.AuditLogs.All(ctx) {
		must(t, err)
		for _, word := range []string{"kim", "Kim", "auth|"} {
			same(t, word+" in "+log.Details, strings.Contains(log.Details, word) && log.TargetID != f.user.ID,
				false)
		}
		same(t, "no address of the actor, who is somebody else", log.IPAddress == "",
			log.EventType != "invited")
	}
	_, err = db.Erase(ctx, hostdb.NewID())
	refused(t, err, hostdb.ErrNotFound, "")
}
