package hostdbtest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func lastOwner(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	demoted, inactive := *f.owner, *f.owner
	demoted.Role, inactive.IsActive = hostdb.RoleAdmin, false
	refused(t, db.Memberships.Update(ctx, &demoted), hostdb.ErrConflict, "last_owner")
	refused(t, db.Memberships.Update(ctx, &inactive), hostdb.ErrConflict, "last_owner")
	refused(t, db.Memberships.Delete(ctx, f.owner.ID), hostdb.ErrConflict, "last_owner")
	moved := *f.owner
	moved.TenantID = newFixture(t, db).tenant.ID
	refused(t, db.Memberships.Update(ctx, &moved), hostdb.ErrConflict, "last_owner")
	heir := &hostdb.Membership{UserID: newFixture(t, db).user.ID, TenantID: f.tenant.ID, IsActive: true}
	must(t, db.Memberships.Insert(ctx, heir))
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error { // promote, then demote
		heir.Role = hostdb.RoleOwner
		return errors.Join(tx.Memberships.Update(ctx, heir), tx.Memberships.Update(ctx, &demoted))
	}))
	refused(t, db.Memberships.Delete(ctx, heir.ID), hostdb.ErrConflict, "last_owner")
	for _, status := range []string{hostdb.TenantSuspended, hostdb.TenantMaintenance} {
		f.tenant.Status = status
		must(t, db.Tenants.Update(ctx, f.tenant))
		refused(t, db.Memberships.Delete(ctx, heir.ID), hostdb.ErrConflict, "last_owner")
	}
	for _, closed := range []string{hostdb.TenantDropped, hostdb.TenantProvisioning} {
		reopens(t, db, closed)
	}
}

// reopens removes a closed tenant's last owner, and checks that it can't be opened again without one.
func reopens(t *testing.T, db *hostdb.DB, closed string) {
	ctx, f := t.Context(), newFixture(t, db)
	f.tenant.Status = closed
	must(t, db.Tenants.Update(ctx, f.tenant))
	f.owner.IsActive = false
	must(t, db.Memberships.Update(ctx, f.owner))
	opened := *f.tenant
	opened.Status = hostdb.TenantActive
	// The tenant is closed, for any reason.
	for _, status := range []string{closed, hostdb.TenantSuspended, hostdb.TenantMaintenance} {
		f.tenant.Status = status
		must(t, db.Tenants.Update(ctx, f.tenant))
		refused(t, db.Tenants.Update(ctx, &opened), hostdb.ErrConflict, "last_owner")
	}
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error { // first the owner, then the tenant
		f.owner.IsActive, f.tenant.Status = true, hostdb.TenantActive
		return errors.Join(tx.Memberships.Update(ctx, f.owner), tx.Tenants.Update(ctx, f.tenant))
	}))
	refused(t, db.Memberships.Delete(ctx, f.owner.ID), hostdb.ErrConflict, "last_owner")
}

func auditStays(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	log := &hostdb.HostAuditLog{EventType: "test", ActorUserID: "somebody", Details: `{"a":1}`,
		IPAddress: "::1"}
	must(t, db.AuditLogs.Insert(ctx, log))
	refused(t, db.AuditLogs.Update(ctx, log), hostdb.ErrImmutable, "sys_audit_logs")
	refused(t, db.AuditLogs.Delete(ctx, log.ID), hostdb.ErrImmutable, "sys_audit_logs")
	refused(t, db.AuditLogs.Insert(ctx, log), hostdb.ErrConflict, "id")
	got, err := db.AuditLogs.Get(ctx, log.ID)
	must(t, err)
	same(t, "row", *got, *log)
}

func mutationsAudited(t *testing.T, db *hostdb.DB) {
	ctx := hostdb.WithActor(t.Context(), "actor")
	tenant := &hostdb.TenantCatalog{Name: "Acme", DBURL: "postgres://u:hunter2@h/d"}
	must(t, db.Tenants.Insert(ctx, tenant))
	tenant.DBURL, tenant.Status = "postgres://u:hunter3@h/d", hostdb.TenantSuspended
	must(t, db.Tenants.Update(ctx, tenant))
	must(t, db.Tenants.Update(ctx, tenant)) // changes nothing
	must(t, db.Tenants.Delete(ctx, tenant.ID))
	logs, err := db.AuditLogs.ListForTarget(ctx, tenant.ID)
	must(t, err)
	var events []string
	for _, log := range logs {
		events = append(events, log.EventType)
		same(t, "actor", log.ActorUserID, "actor")
		same(t, "a secret in "+log.Details, strings.Contains(log.Details, "hunter"), false)
	}
	same(t, "events", strings.Join(events, " "), "tenant.created tenant.updated tenant.deleted")
	same(t, "details", logs[1].Details, `{"db_url":["[secret]","[secret]"],"status":["active","suspended"]}`)
	user := newFixture(t, db).user
	must(t, db.Users.RecordLogin(ctx, user.ID))
	refused(t, db.InTx(ctx, func(
		tx *hostdb.Tx) error {
		return errors.Join(tx.Users.RecordLogin(ctx, user.ID), errUndo)
	}), errUndo, "")
	logins, err := db.AuditLogs.ListForTarget(ctx, user.ID, hostdb.Where("event_type", "user.login"))
	must(t, err)
	same(t, "logins", len(logins), 1)
	same(t, "actor", logins[0].ActorUserID, "actor")
	err = db.InTx(ctx, func(tx *hostdb.Tx) error {
		return errors.Join(tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: "undone"}), errUndo)
	})
	refused(t, err, errUndo, "")
	undone, err := db.AuditLogs.List(ctx, hostdb.Where("event_type", "user.created"),
		hostdb.Where("actor_user_id", "actor"))
	must(t, err)
	same(t, "audit rows of what was undone", len(undone), 0)
}

var errUndo = errors.New("undo")

func lists(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	want := map[string]bool{}
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
		for i := range 220 {
			j := &hostdb.SystemJob{JobType: "even", Attempts: i}
			if i%2 == 1 {
				j.JobType = "odd"
			}
			if err := tx.Jobs.Insert(ctx, j); err != nil {
				return err
			}
			want[j.ID] = true
		}
		return nil
	}))
	page, err := db.Jobs.List(ctx, hostdb.Limit(200))
	must(t, err)
	same(t, "page", len(page), 200)
	rest, err := db.Jobs.List(ctx, hostdb.After(page[199].ID))
	must(t, err)
	same(t, "rest", len(rest), 20)
	odd, err := db.Jobs.List(ctx, hostdb.Where("job_type", "odd"), hostdb.Where("tenant_id", nil),
		hostdb.Limit(3))
	must(t, err)
	same(t, "odd", len(odd), 3)
	one, err := db.Jobs.List(ctx, hostdb.Where("attempts", 7))
	must(t, err)
	same(t, "one", len(one), 1)
	last := ""
	for j, err := range db.Jobs.All(ctx) {
		must(t, err)
		if j.ID <= last || !want[j.ID] {
			t.Fatalf("%s after %s", j.ID, last)
		}
		last = j.ID
		delete(want, j.ID)
	}
	same(t, "rows that All left out", len(want), 0)
	n := 0
	for range db.Jobs.All(ctx, hostdb.Limit(150)) {
		n++
	}
	same(t, "All with a limit", n, 150)
	for _, err := range db.Jobs.All(ctx, hostdb.Limit(5000)) {
		must(t, err)
	}
	for field, filter := range map[string]hostdb.Filter{"colour": hostdb.Where("colour", "red"),
		"status": hostdb.Where("status", 1), "attempts": hostdb.Where("attempts", "1"),
		"limit": hostdb.Limit(-1), "after": hostdb.After("\xff"), "turn": hostdb.Where("turn", 1)} {
		_, err := db.Jobs.List(ctx, filter)
		refused(t, err, hostdb.ErrInvalid, field)
	}
	_, err = db.Jobs.List(ctx, hostdb.Limit(1001)) // All reads further pages
	refused(t, err, hostdb.ErrInvalid, "limit")
	_, err = db.Tenants.List(ctx, hostdb.Where("db_url", "postgres://"))
	refused(t, err, hostdb.ErrInvalid, "db_url")
}

func texts(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	emails := []string{"Ärger@example.com", "ärger@example.com", "İstanbul@example.com",
		"istanbul@example.com", "ΣΑΣ@example.com", "σας@example.com", "straße@example.com",
		"STRASSE@example.com", "日本@example.com", "مثال@example.com", "e\u0301@example.com", "é@example.com"}
	for _, email := range emails { // they differ in more than the case of ASCII letters
		must(t, db.Users.Insert(ctx, &hostdb.GlobalUser{Email: email}))
	}
	for _, email := range emails {
		got, err := db.Users.ByEmail(ctx, strings.ReplaceAll(email, "example.com", "EXAMPLE.com"))
		must(t, err)
		same(t, "address", got.Email, email)
	}
	refused(t, db.Users.Insert(ctx, &hostdb.GlobalUser{Email: "ÄRGER@EXAMPLE.COM"}), hostdb.ErrConflict,
		"email")
	var order []string
	for _, id := range []string{"b", "B", "a-b", "ab", "a", "ä", "z", "Z", "_", "é"} {
		must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: id, Name: id}))
	}
	for p, err := range db.Plans.All(ctx) {
		must(t, err)
		order = append(order, p.ID)
	}
	same(t, "order", strings.Join(order, " "), "B Z _ a a-b ab b z ä é")
}

func times(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	zone := time.FixedZone("far", 14*3600)
	for _, at := range []time.Time{
		time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC),
		time.Date(2026, 6, 30, 12, 0, 0, 1999, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 0, zone),
		time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
	} {
		u := &hostdb.GlobalUser{Email: hostdb.NewID(), LastLogin: &at, CreatedAt: at}
		must(t, db.Users.Insert(ctx, u))
		got, err := db.Users.Get(ctx, u.ID)
		must(t, err)
		same(t, "created_at", got.CreatedAt, at.UTC().Truncate(time.Microsecond))
		same(t, "last_login", *got.LastLogin, *u.LastLogin)
		found, err := db.Users.List(ctx, hostdb.Where("last_login", at))
		must(t, err)
		same(t, "found by time", len(found), 1)
	}
}

func transactions(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	count := func() int {
		t.Helper()
		users, err := db.Users.List(ctx)
		must(t, err)
		return len(users)
	}
	tx, err := db.Begin(ctx)
	must(t, err)
	must(t, tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: "a"}))
	must(t, tx.Rollback())
	must(t, tx.Rollback())
	same(t, "after a rollback", count(), 0)
	refused(t, db.InTx(ctx, func(tx *hostdb.Tx) error { return errors.Join(insert(ctx, tx, "a"), errUndo) }),
		errUndo, "")
	same(t, "after an error", count(), 0)
	func() {
		defer func() { same(t, "panic", recover(), any("boom")) }()
		_ = db.InTx(ctx, func(tx *hostdb.Tx) error { _ = insert(ctx, tx, "a"); panic("boom") })
	}()
	same(t, "after a panic", count(), 0)
	err = db.InTx(ctx, func(tx *hostdb.Tx) error {
		must(t, insert(ctx, tx, "a"))
		refused(t, tx.InTx(ctx, func(tx *hostdb.Tx) error { return insert(ctx, tx, "A") }),
			hostdb.ErrConflict, "email")
		refused(t, tx.InTx(ctx, func(
			tx *hostdb.Tx) error {
			return errors.Join(insert(ctx, tx, "b"), errUndo)
		}), errUndo, "")
		return tx.InTx(ctx, func(tx *hostdb.Tx) error { return insert(ctx, tx, "c") })
	})
	must(t, err)
	same(t, "after savepoints", count(), 2)
	// A refused statement ends the transaction, even if its error is ignored.
	err = db.InTx(ctx, func(tx *hostdb.Tx) error {
		_ = insert(ctx, tx, "C")
		refused(t, insert(ctx, tx, "d"), hostdb.ErrConflict, "email")
		return nil
	})
	refused(t, err, hostdb.ErrConflict, "email")
	same(t, "after a refusal", count(), 2)
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
		same(t, "Commit inside InTx", tx.Commit() != nil, true)
		same(t, "Rollback inside InTx", tx.Rollback() != nil, true)
		return nil
	}))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	refused(t, db.InTx(gone, func(*hostdb.Tx) error { return nil }), context.Canceled, "")
}

// insert stores a user with an e-mail address.
func insert(ctx context.Context, tx *hostdb.Tx, email string) error {
	return tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: email})
}
