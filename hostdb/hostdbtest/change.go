package hostdbtest

import (
	"errors"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// changes checks Table.Change.
func changes(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	audited := func() int {
		logs, err := db.AuditLogs.ListForTarget(ctx, f.tenant.ID,
			hostdb.Where("event_type", "tenant.updated"))
		must(t, err)
		return len(logs)
	}
	before := audited()
	for range 2 { // the second time nothing differs, and nothing is written
		row, err := db.Tenants.Change(ctx, f.tenant.ID, func(tenant *hostdb.TenantCatalog) error {
			tenant.SchemaVersion = 7
			return nil
		})
		must(t, err)
		same(t, "version", row.SchemaVersion, 7)
	}
	row, err := db.Tenants.Get(ctx, f.tenant.ID)
	must(t, err)
	same(t, "stored", row.SchemaVersion, 7)
	same(t, "audit rows", audited()-before, 1)
	own := errors.New("no")
	_, err = db.Tenants.Change(ctx, f.tenant.ID,
		func(tenant *hostdb.TenantCatalog) error { tenant.Name = "x"; return own })
	refused(t, err, own, "")
	_, err = db.Tenants.Change(ctx, f.tenant.ID,
		func(tenant *hostdb.TenantCatalog) error { tenant.ID = hostdb.NewID(); return nil })
	refused(t, err, hostdb.ErrInvalid, "id")
	_, err = db.Tenants.Change(ctx, f.tenant.ID,
		func(tenant *hostdb.TenantCatalog) error { tenant.Status = "x"; return nil })
	refused(t, err, hostdb.ErrInvalid, "status")
	_, err = db.Tenants.Change(ctx, hostdb.NewID(), func(*hostdb.TenantCatalog) error { return nil })
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.AuditLogs.Change(ctx, hostdb.NewID(), func(*hostdb.HostAuditLog) error { return nil })
	refused(t, err, hostdb.ErrImmutable, "")
	same(t, "audit rows", audited()-before, 1)
}

// onceRecorded checks AuditLogs.RecordOnce.
func onceRecorded(t *testing.T, db *hostdb.DB) {
	ctx, f := hostdb.WithActor(t.Context(), "ann"), newFixture(t, db)
	for range 2 {
		must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
			return tx.AuditLogs.RecordOnce(ctx, hostdb.EventTenantDropped, f.tenant.ID)
		}))
	}
	logs, err := db.AuditLogs.ListForActor(ctx, "ann")
	must(t, err)
	if len(logs) != 1 || logs[0].EventType != hostdb.EventTenantDropped || logs[0].TargetID != f.tenant.ID {
		t.Errorf("audit log: %+v", logs)
	}
	refused(t, db.AuditLogs.RecordOnce(ctx, "x", f.tenant.ID), hostdb.ErrInvalid, "tx")
}
