package hostdb_test

import (
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/hostdb/hostdbtest"
)

// upgradeByNewer changes the schema as a newer version of the library may: it adds.
func upgradeByNewer(t *testing.T, url string) {
	t.Helper()
	pool := rawURL(t, url)
	for _, statement := range []string{
		"ALTER TABLE core_users ADD COLUMN nickname text",
		"ALTER TABLE core_tenants ADD COLUMN region text NOT NULL DEFAULT 'eu'",
		"ALTER TABLE sys_jobs ADD COLUMN priority integer NOT NULL DEFAULT 0",
		"CREATE TABLE core_invitations (id text PRIMARY KEY)",
		"CREATE INDEX core_users_nickname ON core_users (nickname)",
		"INSERT INTO host_schema_version (version_id, is_applied) VALUES (99, true)",
	} {
		_, err := pool.Exec(statement)
		must(t, err)
	}
}

var severalProcesses = map[string]func(t testing.TB) string{"postgres": postgresURL, "file": fileURL}

func TestConformance_ofANewerSchema(t *testing.T) {
	for name, place := range severalProcesses {
		t.Run(name, func(t *testing.T) {
			hostdbtest.Run(t, func(t *testing.T) *hostdb.DB {
				config := hostdb.Config{URL: hostdb.Secret(place(t))}
				must(t, open(t, config).Close())
				upgradeByNewer(t, config.URL.Reveal())
				return open(t, config)
			})
		})
	}
}

// This is a rolling deployment and its rollback.
func TestDB_olderProcessContinuesAfterAnUpgrade(t *testing.T) {
	for name, place := range severalProcesses {
		t.Run(name, func(t *testing.T) {
			config := often(place(t))
			old := open(t, config)
			events := listen(t, old)
			user := newUser(t, old)
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeUser, UserID: user.ID})
			upgradeByNewer(t, config.URL.Reveal())
			// The new process.
			_, err := raw(t, old).Exec("UPDATE core_users SET nickname = 'kim' WHERE id = '" + user.ID + "'")
			must(t, err)
			user.StripeCustID = "cus_1"
			must(t, old.Users.Update(t.Context(), user))
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeUser, UserID: user.ID})
			config.NoUpgrade = true
			// The product and its operator's program.
			for _, again := range []hostdb.Config{{URL: config.URL}, config} {
				db := open(t, again)
				if version, err := db.SchemaVersion(t.Context()); err != nil || version != 99 {
					t.Errorf("the version is %d, %v; want 99", version, err)
				}
				if faults, err := db.Verify(t.Context()); err != nil || len(faults) > 0 {
					t.Errorf("faults: %v, %v", faults, err)
				}
				_, err := db.Users.Change(t.Context(), user.ID, func(u *hostdb.GlobalUser) error {
					u.IsSysAdmin = !u.IsSysAdmin
					return nil
				})
				must(t, err)
			}
			var nickname string
			must(t, raw(t, old).QueryRow("SELECT nickname FROM core_users WHERE id = '"+user.ID+
				"'").Scan(&nickname))
			if nickname != "kim" {
				t.Errorf("the old process made the new column %q", nickname)
			}
		})
	}
}
