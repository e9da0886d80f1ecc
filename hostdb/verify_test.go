package hostdb_test

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// damage is a fault in a schema: how it is made, and how Verify describes it.
type damage struct{ do, object, problem string }

var damages = map[string][]damage{
	"postgres": {
		{"ALTER TABLE core_memberships DISABLE TRIGGER ALL", "trigger core_memberships_changed",
			"is disabled"},
		{"ALTER TABLE core_memberships DISABLE TRIGGER ALL", "constraint core_memberships__user_id__fkey",
			"isn't enforced"},
		{"ALTER TABLE core_users ENABLE TRIGGER core_users_updated", "trigger core_users_updated",
			"doesn't fire in every session"},
		{"ALTER TABLE core_users ENABLE REPLICA TRIGGER core_users_updated", "trigger core_users_updated",
			"doesn't fire in every session"},
		{"ALTER TABLE sys_audit_logs DISABLE TRIGGER sys_audit_logs_rows", "trigger sys_audit_logs_rows",
			"is disabled"},
		{"ALTER TABLE sys_jobs DISABLE TRIGGER sys_jobs_turn", "trigger sys_jobs_turn", "is disabled"},
		{"DROP TRIGGER core_tenants_keep_owner ON core_tenants", "trigger core_tenants_keep_owner",
			"is missing"},
		{"ALTER TABLE core_memberships DROP CONSTRAINT core_memberships__user_id__tenant_id",
			"key core_memberships__user_id__tenant_id", "is missing"},
		{"DROP INDEX core_users__email", "key core_users__email", "is missing"},
		{"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'core_users__email'::regclass",
			"key core_users__email", "isn't valid"},
		{"ALTER TABLE core_tenants DROP CONSTRAINT core_tenants__slug__check",
			"constraint core_tenants__slug__check", "is missing"},
		{"ALTER TABLE core_users ADD CONSTRAINT core_users__email_at CHECK (email LIKE '%@%') NOT VALID",
			"constraint core_users__email_at", "isn't validated"},
		{"DELETE FROM host_feed_floor", "table host_feed_floor", "has no row"},
	},
	"file": {
		{"DROP TRIGGER core_memberships_deleted", "trigger core_memberships_deleted", "is missing"},
		{"DROP TRIGGER sys_audit_logs_update", "trigger sys_audit_logs_update", "is missing"},
		{"DROP INDEX core_users__email", "index core_users__email", "is missing"},
		{"DELETE FROM host_feed_floor", "table host_feed_floor", "has no row"},
	},
}

func TestDB_Verify_namesTheFaultAndItsFix(t *testing.T) {
	for place, list := range damages {
		for _, d := range list {
			t.Run(place+"/"+d.do, func(t *testing.T) {
				t.Parallel()
				var log bytes.Buffer
				url := hostdb.Secret(places[place](t))
				db := open(t, hostdb.Config{URL: url})
				if faults, err := db.Verify(t.Context()); err != nil || len(faults) > 0 {
					t.Fatalf("a fresh schema: %v, %v", faults, err)
				}
				pool := raw(t, db)
				_, err := pool.Exec(d.do)
				must(t, err)
				faults, err := db.Verify(t.Context())
				must(t, err)
				i := slices.IndexFunc(faults,
					func(f hostdb.Fault) bool { return f.Object == d.object && f.Problem == d.problem })
				if i < 0 || faults[i].Fix == "" {
					t.Fatalf("Verify found %v; want %q, which %q, and a fix", faults, d.object, d.problem)
				}
				open(t, hostdb.Config{URL: url, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				if !strings.Contains(log.String(), d.object) || !strings.Contains(log.String(), "fix=") {
					t.Errorf("Open logs %q, which doesn't name %s", log.String(), d.object)
				}
				mend(t, pool, faults)
				if left, err := db.Verify(t.Context()); err != nil ||
					slices.ContainsFunc(left, func(f hostdb.Fault) bool { return isStatement(f.Fix) }) {
					t.Errorf("after the fixes: %v, %v", left, err)
				}
			})
		}
	}
}

// mend executes the fixes that are statements.
func mend(t *testing.T, pool *sql.DB, faults []hostdb.Fault) {
	t.Helper()
	for _, f := range faults {
		if isStatement(f.Fix) {
			_, err := pool.Exec(f.Fix)
			must(t, err)
		}
	}
}

func isStatement(fix string) bool {
	return strings.HasPrefix(fix, "ALTER") || strings.HasPrefix(fix, "INSERT") ||
		strings.HasPrefix(fix, "REINDEX")
}

// It fails when a migration adds or removes a trigger or key without Verify. Name it in verify_postgres.go
// or verify_sqlite.go.
func TestDB_Verify_knowsEveryTriggerAndKey(t *testing.T) {
	for place, text := range map[string]string{
		"postgres": `SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
			AND tgrelid::regclass::text ~ '^(core|sys|host)_'
			UNION ALL SELECT 'key ' || c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
				WHERE i.indisunique AND i.indrelid::regclass::text ~ '^(core|sys|host)_'
				AND i.indrelid <> 'host_schema_version'::regclass
			UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE contype = 'f'
			AND conrelid::regclass::text ~ '^(core|sys|host)_'`,
		"file": `SELECT type || ' ' || name FROM sqlite_schema WHERE type = 'trigger' OR type = 'index'
			AND sql LIKE 'CREATE UNIQUE%'`,
	} {
		t.Run(place, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(places[place](t))})
			rows, err := raw(t, db).Query(text)
			must(t, err)
			var found []string
			for rows.Next() {
				var object string
				must(t, rows.Scan(&object))
				found = append(found, object)
			}
			must(t, rows.Err())
			known := hostdb.Verified(place == "postgres")
			slices.Sort(found)
			slices.Sort(known)
			for _, object := range found {
				if _, knows := slices.BinarySearch(known, object); !knows {
					t.Errorf("Verify doesn't look for the %s", object)
				}
			}
		})
	}
}

func TestChanges_promiseNothingWithADisabledTrigger(t *testing.T) {
	for place, statements := range map[string][2]string{
		"postgres": {"ALTER TABLE core_memberships DISABLE TRIGGER ALL", "DISABLE"},
		"file":     {"DROP TRIGGER core_memberships_deleted", "core_memberships_deleted"},
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			config := often(places[place](t))
			config.VerifyInterval = time.Millisecond
			db := open(t, config)
			pool := raw(t, db)
			var trigger string
			if place == "file" {
				row := pool.QueryRow("SELECT sql FROM sqlite_schema WHERE name = 'core_memberships_deleted'")
				must(t, row.Scan(&trigger))
			}
			events := listen(t, db)
			_, err := pool.Exec(statements[0])
			must(t, err)
			reset, told := false, false
			for !told || !reset {
				e := next(t, events)
				reset = reset || e.delivery.Reset && e.delivery.PolledAt.IsZero()
				told = told || e.err != nil
			}
			user := newUser(t, db) // its trigger is enabled
			for seen := false; !seen; {
				e := next(t, events)
				if e.err != nil {
					if !errors.Is(e.err, hostdb.ErrUnavailable) ||
						!strings.Contains(e.err.Error(), "core_memberships") ||
						!strings.Contains(e.err.Error(), "to fix it") {
						t.Fatalf("error = %v; want ErrUnavailable with the trigger and the fix", e.err)
					}
					continue
				}
				if !e.delivery.PolledAt.IsZero() {
					t.Fatalf("the feed promises: %+v", e.delivery)
				}
				seen = slices.Contains(e.delivery.Changes,
					hostdb.Change{Kind: hostdb.ChangeUser, UserID: user.ID}) || e.delivery.Reset
			}
			faults, err := db.Verify(t.Context())
			must(t, err)
			if mend(t, pool, faults); place == "file" {
				_, err := pool.Exec(trigger)
				must(t, err)
			}
			for e := next(t, events); e.err != nil || e.delivery.PolledAt.IsZero(); e = next(t, events) {
				if e.err == nil && e.delivery.Reset {
					t.Error("a Reset while it is not mended")
				}
			}
		})
	}
}

func TestChanges_resetAfterAFault(t *testing.T) {
	config := often(postgresURL(t))
	config.VerifyInterval = time.Millisecond
	db := open(t, config)
	pool := raw(t, db)
	events := listen(t, db)
	_, err := pool.Exec("ALTER TABLE core_memberships DISABLE TRIGGER core_memberships_changed")
	must(t, err)
	for next(t, events).err == nil {
	}
	_, err = pool.Exec("ALTER TABLE core_memberships ENABLE ALWAYS TRIGGER core_memberships_changed")
	must(t, err)
	for {
		if e := next(t, events); e.err == nil && !e.delivery.PolledAt.IsZero() {
			if !e.delivery.Reset {
				t.Errorf("delivered %+v, want a Reset", e.delivery)
			}
			return
		}
	}
}

func TestDB_Verify_findsNothingBehindAPooler(t *testing.T) {
	url := fewConnections(t).Through(t, pgtest.Database(t))
	db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
	if faults, err := db.Verify(t.Context()); err != nil || len(faults) > 0 {
		t.Errorf("faults: %v, %v", faults, err)
	}
}
