package hostdb_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"sync"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Two owners leave at the same time. One of them must stay, whatever the transactions can see of each other.
func TestMemberships_ownersWhoLeaveAtOnceDoNotAllLeave(t *testing.T) {
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run("postgres "+level, func(t *testing.T) {
			t.Parallel()
			u := postgresURL(t)
			leaveAtOnce(t, open(t, hostdb.Config{URL: hostdb.Secret(u + "&default_transaction_isolation=" +
				url.PathEscape(level))}))
		})
	}
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		leaveAtOnce(t, open(t, hostdb.Config{URL: hostdb.Secret(fileURL(t))}))
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		leaveAtOnce(t, open(t, hostdb.Config{URL: "sqlite::memory:"}))
	})
}

func leaveAtOnce(t *testing.T, db *hostdb.DB) {
	for range 15 {
		tenant := newTenant(t, db)
		var owners []*hostdb.Membership
		for range 3 {
			owners = append(owners, newMember(t, db, newUser(t, db), tenant, hostdb.RoleOwner))
		}
		var wg sync.WaitGroup
		refusals := make([]error, len(owners))
		for i, m := range owners {
			wg.Go(func() {
				switch i {
				case 0:
					refusals[i] = db.Memberships.Delete(context.Background(), m.ID)
				case 1:
					m.Role = hostdb.RoleMember
					refusals[i] = db.Memberships.Update(context.Background(), m)
				default:
					m.IsActive = false
					refusals[i] = db.Memberships.Update(context.Background(), m)
				}
			})
		}
		wg.Wait()
		refused := 0
		for _, err := range refusals {
			if errors.Is(err, hostdb.ErrConflict) {
				refused++
			} else if err != nil {
				t.Errorf("error = %v, want nil or ErrConflict", err)
			}
		}
		if refused != 1 {
			t.Fatalf("%d of 3 owners who left were refused, want 1: %v", refused, refusals)
		}
	}
}

// Each transaction has removed its owner before the other one commits.
func TestMemberships_interleavedRemovalsOfTheLastOwners(t *testing.T) {
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead,
		sql.LevelSerializable} {
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			db := open(t, hostdb.Config{URL: hostdb.Secret(postgresURL(t))})
			tenant, pool := newTenant(t, db), raw(t, db)
			a := newMember(t, db, newUser(t, db), tenant, hostdb.RoleOwner)
			b := newMember(t, db, newUser(t, db), tenant, hostdb.RoleOwner)
			first, err := pool.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
			must(t, err)
			defer first.Rollback()
			second, err := pool.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
			must(t, err)
			defer second.Rollback()
			for _, tx := range []*sql.Tx{first, second} { // both take their snapshots
				_, err := tx.Exec("SELECT count(*) FROM core_memberships")
				must(t, err)
			}
			_, err = first.Exec("DELETE FROM core_memberships WHERE id = $1", a.ID)
			must(t, err)
			blocked := make(chan error)
			go func() {
				_, err := second.Exec("UPDATE core_memberships SET is_active = false WHERE id = $1", b.ID)
				blocked <- err
			}()
			must(t, first.Commit())
			if err := <-blocked; err == nil {
				t.Error("the second removal of the last owner succeeded")
			}
		})
	}
}

func TestSchema_lastOwnerStaysWhateverTheStatement(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			tenant, owner := newTenant(t, db), newUser(t, db)
			m := newMember(t, db, owner, tenant, hostdb.RoleOwner)
			replica := []string{"", "SET LOCAL session_replication_role = replica"}
			statements := []string{"DELETE FROM core_memberships",
				"UPDATE core_memberships SET role = 'admin'", "UPDATE core_memberships SET is_active = false"}
			if name == "postgres" {
				statements = append(statements, "TRUNCATE core_memberships", "TRUNCATE core_users CASCADE")
			} else {
				replica = replica[:1]
				statements = append(statements,
					"INSERT OR REPLACE INTO core_memberships (id, user_id, tenant_id, role) VALUES ('"+
						m.ID+"', '"+owner.ID+"', '"+tenant.ID+"', 'member')")
			}
			for _, before := range replica {
				for _, statement := range statements {
					tx, err := raw(t, db).Begin()
					must(t, err)
					if before != "" {
						_, err = tx.Exec(before)
						must(t, err)
					}
					if _, err := tx.Exec(statement); err == nil {
						t.Errorf("%s %s succeeded", before, statement)
					}
					_ = tx.Rollback()
				}
			}
		})
	}
}

func TestSchema_temporaryTablesDoNotDisarmTheRules(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(postgresURL(t))})
	user, tenant := newUser(t, db), newTenant(t, db)
	owner := newMember(t, db, user, tenant, hostdb.RoleOwner)
	session, err := raw(t, db).Conn(t.Context())
	must(t, err)
	defer session.Close()
	for _, table := range []string{"core_tenants", "host_changes", "sys_jobs"} {
		_, err := session.ExecContext(t.Context(), "CREATE TEMPORARY TABLE "+table+" (LIKE public."+table+
			" INCLUDING ALL)")
		must(t, err)
	}
	if _, err := session.ExecContext(t.Context(), "DELETE FROM public.core_memberships WHERE id = $1",
		owner.ID); err == nil {
		t.Error("the last owner left")
	}
	changes := func() (n int) {
		must(t, session.QueryRowContext(t.Context(), "SELECT count(*) FROM public.host_changes").Scan(&n))
		return n
	}
	before := changes()
	_, err = session.ExecContext(t.Context(),
		"UPDATE public.core_users SET is_sys_admin = true WHERE id = $1", user.ID)
	must(t, err)
	if got := changes(); got != before+1 {
		t.Errorf("%d changes were logged, want 1", got-before)
	}
	for want := 1; want <= 2; want++ {
		var turn int
		must(t, session.QueryRowContext(t.Context(),
			"INSERT INTO public.sys_jobs (job_type) VALUES ('x') RETURNING turn").Scan(&turn))
		if turn != want {
			t.Errorf("the job has turn %d, want %d", turn, want)
		}
	}
}
