package hostdb_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// What earlier versions wrote reads as before, and can be erased.
func TestOpen_upgradeMovesPersonalPartsOfAuditRows(t *testing.T) {
	for name, place := range map[string]string{"postgres": pgtest.Database(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			pool, dialect, files := rawURL(t, place), goose.DialectPostgres, "migrations/postgres"
			if name == "file" {
				dialect, files = goose.DialectSQLite3, "migrations/sqlite"
			}
			old, err := goose.NewProvider(dialect, pool, os.DirFS(files),
				goose.WithTableName("host_schema_version"), goose.WithDisableGlobalRegistry(true))
			must(t, err)
			_, err = old.UpTo(t.Context(), 6)
			must(t, err)
			user := strings.Repeat("a", 32)
			rows := []*hostdb.HostAuditLog{
				{EventType: "user.created", Details: `{"email":"kim@example.com","id":"` + user +
					`","is_sys_admin":true,"stripe_cust_id":"cus_kim"}`},
				{EventType: "user.updated",
					Details: `{"email":["kim@example.com","k\u003cim@example.org"],` +
						`"oauth_id":["","auth|kim"],"is_sys_admin":[true,false]}`},
				{EventType: "user.updated", Details: `{"is_sys_admin":[false,true]}`, IPAddress: "192.0.2.1"},
				{EventType: "user.deleted",
					Details: `{"email":"k\u003cim@example.org","oauth_id":"auth|kim"}`},
				{EventType: "user.created", Details: "no JSON"},
				{EventType: "user.updated", Details: "[1]"},
				{EventType: "user.login"},
				{EventType: "invited", Details: `{"email":"of the product's own"}`},
			}
			for _, a := range rows {
				a.ID, a.TargetID = hostdb.NewID(), user
				_, err := pool.Exec("INSERT INTO sys_audit_logs (id, event_type, target_id, details, "+
					"ip_address) VALUES ($1, $2, $3, $4, $5)", a.ID, a.EventType, a.TargetID, null(a.Details),
					null(a.IPAddress))
				must(t, err)
			}
			sub := &hostdb.HostAuditLog{ID: hostdb.NewID(), EventType: "subscription.updated",
				Details: `{"stripe_cust_id":["","cus_kim"]}`}
			_, err = pool.Exec("INSERT INTO sys_audit_logs (id, event_type, target_id, details) "+
				"VALUES ($1, $2, $1, $3)", sub.ID, sub.EventType, sub.Details)
			must(t, err)

			db := open(t, hostdb.Config{URL: hostdb.Secret(place)})
			for _, a := range append(rows, sub) {
				got, err := db.AuditLogs.Get(t.Context(), a.ID)
				must(t, err)
				if sorted(got.Details) != sorted(a.Details) || got.IPAddress != a.IPAddress {
					t.Errorf("%s reads %s and %q after the upgrade; want %s", a.EventType, got.Details,
						got.IPAddress, a.Details)
				}
			}
			if faults, err := db.Verify(t.Context()); err != nil || len(faults) > 0 {
				t.Errorf("faults: %v, %v", faults, err)
			}
			if _, err := pool.Exec("UPDATE sys_audit_logs SET details = NULL"); err == nil {
				t.Error("audit rows can be changed after the upgrade")
			}
			report, err := db.Erase(t.Context(), user)
			must(t, err)
			if report.AuditRowsInClear != 0 {
				t.Errorf("%d rows are in clear", report.AuditRowsInClear)
			}
			for _, word := range []string{"kim@", "im@example.org", "auth|kim", "cus_kim", "192.0.2.1"} {
				if found := lines(texts(t, db), word); len(found) > 0 {
					t.Errorf("%s is still in %q", word, found)
				}
			}
		})
	}
}

// An older process doesn't store parts, and its rows can't be changed.
func TestDB_Erase_countsRowsOfAnOlderProcess(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		user := newUser(t, db)
		_, err := raw(t, db).Exec(
			"INSERT INTO sys_audit_logs (id, event_type, target_id, details) VALUES ('" + hostdb.NewID() +
				"', 'user.updated', '" +
				user.ID + `', '{"email":["` + user.Email + `","other@example.com"]}')`)
		must(t, err)
		report, err := db.Erase(t.Context(), user.ID)
		must(t, err)
		if report.AuditRowsInClear != 1 {
			t.Errorf("the report counts %d rows in clear, want 1", report.AuditRowsInClear)
		}
	})
}

// null returns nil for "".
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// sorted returns a JSON object with its members sorted, and any other text unchanged.
func sorted(text string) string {
	var object map[string]any
	if json.Unmarshal([]byte(text), &object) != nil {
		return text
	}
	encoded, _ := json.Marshal(object)
	return string(encoded)
}
