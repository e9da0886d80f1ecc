package hostdb_test

import (
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The statements run as the tables' owner, which in PostgreSQL is also a superuser.
func TestAuditLogs_refuseEveryStatement(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			log := &hostdb.HostAuditLog{EventType: "kept", ActorUserID: "a", IPAddress: "::1"}
			must(t, db.AuditLogs.Insert(t.Context(), log))
			befores := []string{"SELECT 1"}
			statements := []string{"UPDATE sys_audit_logs SET event_type = 'x'",
				"UPDATE sys_audit_logs SET id = id", "DELETE FROM sys_audit_logs",
				"UPDATE sys_audit_personal SET content = 'x'",
				"UPDATE sys_audit_personal SET audit_id = '" + hostdb.NewID() + "'",
				"INSERT INTO sys_audit_personal (audit_id, part, content) VALUES ('" + log.ID +
					"', 'details', '{}')"}
			if name == "postgres" {
				befores = append(befores, "SET LOCAL session_replication_role = replica")
				statements = append(statements, "TRUNCATE sys_audit_logs", "TRUNCATE sys_audit_personal",
					"INSERT INTO sys_audit_logs (id, event_type) VALUES ('"+log.ID+
						"', 'x') ON CONFLICT (id) DO UPDATE SET event_type = 'x'")
				var version int
				must(t, raw(t, db).QueryRow("SELECT current_setting('server_version_num')::int").Scan(
					&version))
				if version >= 150000 { // older versions have no MERGE
					statements = append(statements,
						"MERGE INTO sys_audit_logs l USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE")
				}
			} else {
				statements = append(statements, "INSERT OR REPLACE INTO sys_audit_personal VALUES ('"+log.ID+
					"', 'ip_address', NULL, 'x')",
					"INSERT OR REPLACE INTO sys_audit_logs (id, event_type) VALUES ('"+log.ID+"', 'x')",
					"REPLACE INTO sys_audit_logs (id, event_type) VALUES ('"+log.ID+"', 'x')",
					"UPDATE OR REPLACE sys_audit_logs SET event_type = 'x'",
					"INSERT OR REPLACE INTO sys_audit_logs (rowid, id, event_type) VALUES (1, '"+
						hostdb.NewID()+"', 'x')", "INSERT INTO sys_audit_logs (id, event_type) VALUES ('"+
						log.ID+"', 'x') ON CONFLICT (id) DO UPDATE SET event_type = 'x'")
			}
			for _, before := range befores {
				for _, statement := range statements {
					tx, err := raw(t, db).Begin()
					must(t, err)
					_, err = tx.Exec(before)
					must(t, err)
					if _, err := tx.Exec(statement); err == nil || strings.Contains(err.Error(), "syntax") {
						t.Errorf("%s; %s: %v", before, statement, err)
					}
					_ = tx.Rollback()
				}
			}
			// A part can be deleted, but not replaced.
			_, err := raw(t, db).Exec("DELETE FROM sys_audit_personal")
			must(t, err)
			if _, err := raw(t, db).Exec(
				"INSERT INTO sys_audit_personal (audit_id, part, content) VALUES ('" + log.ID +
					"', 'ip_address', 'x')"); err == nil {
				t.Error("another part took its place")
			}
			log.IPAddress = ""
			if got, err := db.AuditLogs.Get(t.Context(), log.ID); err != nil || *got != *log {
				t.Errorf("the row is now %+v, %v", got, err)
			}
		})
	}
}
