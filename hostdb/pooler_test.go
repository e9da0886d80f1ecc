package hostdb_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/hostdb/hostdbtest"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// fewConnections starts a PgBouncer whose clients share two server connections for each database, so that
// few consecutive transactions of a client run on the same one.
func fewConnections(t *testing.T) *pgtest.PgBouncer {
	t.Helper()
	return pgtest.StartPgBouncer(t, pgtest.Shared(t), "default_pool_size=2")
}

func TestConformance_throughAPooler(t *testing.T) {
	pooler := fewConnections(t)
	hostdbtest.Run(t, func(t *testing.T) *hostdb.DB {
		return open(t, hostdb.Config{URL: hostdb.Secret(pooler.Through(t, postgresURL(t)))})
	})
}

func TestOpen_throughAPoolerMakesOneSchema(t *testing.T) {
	pooler := fewConnections(t)
	for name, off := range map[string]bool{"NOTIFY is on and useless": false, "NOTIFY is off": true} {
		t.Run(name, func(t *testing.T) {
			url := pooler.Through(t, pgtest.Database(t))
			openAtOnce(t, url)
			db := open(t, hostdb.Config{URL: hostdb.Secret(url), PollInterval: 5 * time.Millisecond,
				NoNotify: off})
			events := listen(t, db)
			user, tenant := newUser(t, db), newTenant(t, db)
			newMember(t, db, user, tenant, hostdb.RoleOwner)
			wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeUser, UserID: user.ID},
				hostdb.Change{Kind: hostdb.ChangeTenant, TenantID: tenant.ID},
				hostdb.Change{Kind: hostdb.ChangeMembership, UserID: user.ID, TenantID: tenant.ID})
		})
	}
}

func TestDB_throughAPoolerGivesEachCallItsAnswer(t *testing.T) {
	url := fewConnections(t).Through(t, postgresURL(t))
	var clients []*hostdb.DB
	for range 3 {
		clients = append(clients, open(t, hostdb.Config{URL: hostdb.Secret(url)}))
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			db := clients[i%len(clients)]
			for n := range 20 {
				user := &hostdb.GlobalUser{Email: fmt.Sprintf("%d-%d@example.com", i, n),
					OAuthID: fmt.Sprintf("auth|%d-%d", i, n)}
				tenant := &hostdb.TenantCatalog{Name: "Tenant", Slug: fmt.Sprintf("t-%d-%d", i, n),
					IsActive: true}
				err := db.InTx(t.Context(), func(tx *hostdb.Tx) error {
					if err := tx.Users.Insert(t.Context(), user); err != nil {
						return err
					}
					if err := tx.Tenants.Insert(t.Context(), tenant); err != nil {
						return err
					}
					return tx.Memberships.Insert(t.Context(),
						&hostdb.Membership{UserID: user.ID, TenantID: tenant.ID, IsActive: true})
				})
				if err != nil {
					t.Error(err)
					return
				}
				access, err := db.Access(t.Context(), hostdb.UserKey{OAuthID: user.OAuthID},
					hostdb.TenantKey{Slug: tenant.Slug})
				if err != nil || access.User == nil || access.User.Email != user.Email ||
					access.Membership == nil {
					t.Errorf("access = %+v, %v", access, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
