package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// world is a product: a host database, whose tenants all pay, and the pool of the tenants' databases.
type world struct {
	host    *hostdb.DB
	pool    *tenantdb.Pool
	tenants []*hostdb.TenantCatalog
	dir     string
}

// subject returns a user's name in tokens.
func subject(i int) string { return fmt.Sprintf("auth0|%024d", i) }

// slug returns a tenant's name in requests.
func slug(i int) string { return fmt.Sprintf("tenant-%05d", i) }

// newWorld makes a product on SQLite with a number of users and tenants. User i is a member of the tenant i
// modulo the number of tenants.
func newWorld(b *Bench, users, tenants int) (*world, error) {
	dir, err := b.folder()
	if err != nil {
		return nil, err
	}
	host, err := hostdb.Open(b.ctx, "sqlite:"+filepath.Join(dir, "host.db"))
	if err != nil {
		return nil, err
	}
	b.onClose(func() { _ = host.Close() })
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants")})
	if err != nil {
		return nil, err
	}
	b.onClose(func() { _ = pool.Close(context.Background()) })
	w := &world{host: host, pool: pool, dir: dir}
	w.tenants, err = populate(b.ctx, host, users, tenants, func(id string, _ int) string {
		return "sqlite:" + id + ".db"
	})
	return w, err
}

// populate fills a host database in one transaction.
func populate(ctx context.Context, host *hostdb.DB, users, tenants int,
	place func(id string, i int) string) ([]*hostdb.TenantCatalog, error) {
	var list []*hostdb.TenantCatalog
	err := host.InTx(ctx, func(tx *hostdb.Tx) error {
		list = nil
		if err := tx.Plans.Insert(ctx,
			&hostdb.PricingPlan{ID: "pro", Name: "Pro", IsActive: true, TierLevel: 2}); err != nil {
			return err
		}
		for i := range tenants {
			id := hostdb.NewID()
			t := &hostdb.TenantCatalog{ID: id, Name: "Tenant", Slug: slug(i),
				DBURL: hostdb.Secret(place(id, i)), IsActive: true,
				PlanTier: "pro", Status: hostdb.TenantActive}
			if err := tx.Tenants.Insert(ctx, t); err != nil {
				return err
			}
			s := &hostdb.Subscription{TenantID: id, StripeSubID: "sub_" + id, PlanTier: "pro",
				Status: "active", PaymentType: "subscription"}
			if err := tx.Subscriptions.Insert(ctx, s); err != nil {
				return err
			}
			list = append(list, t)
		}
		for i := range users {
			u := &hostdb.GlobalUser{OAuthID: subject(i), Email: fmt.Sprintf("user%d@example.com", i)}
			if err := tx.Users.Insert(ctx, u); err != nil {
				return err
			}
			m := &hostdb.Membership{UserID: u.ID, TenantID: list[i%tenants].ID, Role: hostdb.RoleMember,
				IsActive: true}
			if err := tx.Memberships.Insert(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}
