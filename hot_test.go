package tenantdb_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

// hotPath is a middleware over n users, each an owner of one of the tenants, with its requests; all tokens and facts are cached.
func hotPath(tb testing.TB, n int) (http.Handler, []*http.Request) {
	ctx := tb.Context()
	host, err := hostdb.Open(ctx, "sqlite:"+filepath.Join(tb.TempDir(), "host.db"))
	must(tb, err)
	tb.Cleanup(func() { _ = host.Close() })
	issuer := tenantdbtest.NewIssuer()
	auth, err := jwtauth.New(issuer.Config())
	must(tb, err)
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: tb.TempDir()})
	must(tb, err)
	mw, err := tenantdb.New(tenantdb.Config{Host: host, Authenticator: auth, Pool: pool, Tenant: tenantdb.FromHeader("X-Tenant")})
	must(tb, err)
	tb.Cleanup(func() { _ = mw.Close(ctx); _ = pool.Close(ctx) })
	var requests []*http.Request
	must(tb, host.InTx(ctx, func(tx *hostdb.Tx) error {
		for i := range n {
			u := &hostdb.GlobalUser{OAuthID: fmt.Sprintf("user-%d", i), Email: fmt.Sprintf("u%d@example.com", i)}
			if err := tx.Users.Insert(ctx, u); err != nil {
				return err
			}
			id := hostdb.NewID()
			t := &hostdb.TenantCatalog{ID: id, Slug: fmt.Sprintf("tenant-%d", i), Name: "T", IsActive: true, Status: hostdb.TenantProvisioning, DBURL: hostdb.Secret("sqlite:" + id + ".db"), PlanTier: "pro"}
			if err := tx.Tenants.Insert(ctx, t); err != nil {
				return err
			}
			if err := tx.Memberships.Insert(ctx, &hostdb.Membership{UserID: u.ID, TenantID: id, ProfileID: hostdb.NewID(), Role: "owner", IsActive: true}); err != nil {
				return err
			}
			t.Status = hostdb.TenantActive
			if err := tx.Tenants.Update(ctx, t); err != nil {
				return err
			}
			if err := tx.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: id, PlanTier: "pro", Status: "active", PaymentType: "subscription"}); err != nil {
				return err
			}
			r := httptest.NewRequest("GET", "/notes", nil)
			r.Header.Set("Authorization", "Bearer "+issuer.Token(u.OAuthID, time.Hour, nil))
			r.Header.Set("X-Tenant", t.Slug)
			requests = append(requests, r)
		}
		return nil
	}))
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := tenantdb.FromContext(r.Context()); !ok {
			panic("no scope")
		}
	}))
	for mw.Stats().SincePoll < 0 {
		time.Sleep(time.Millisecond)
	}
	for _, r := range requests {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code != 200 {
			tb.Fatal(rec.Code, rec.Body)
		}
	}
	return h, requests
}

func BenchmarkHandler(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		h, requests := hotPath(b, n)
		b.Run(fmt.Sprint("tokens=", n), func(b *testing.B) {
			rec := httptest.NewRecorder()
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				h.ServeHTTP(rec, requests[i])
				if i++; i == n {
					i = 0
				}
			}
			if rec.Code != 200 {
				b.Fatal(rec.Code)
			}
		})
	}
}
