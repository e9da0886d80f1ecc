package tenantdb_test

import (
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// slowToEnd is a host that sends nothing and closes its side of a connection a moment after the client did.
// open counts its connections.
func slowToEnd(t *testing.T) (address string, open *atomic.Int64) {
	t.Helper()
	open = new(atomic.Int64)
	return listen(t, func(conn net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		_, _ = io.Copy(io.Discard, conn)
		<-time.After(300 * time.Millisecond)
	}), open
}

// TestPool_dialEndsOnceNoHostHasASocketOfIt covers dials that succeed at another host and dials that fail.
func TestPool_dialEndsOnceNoHostHasASocketOfIt(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, away.Close())
	good, err := url.Parse(pgtest.Shared(t).Database(t))
	must(t, err)
	for name, other := range map[string]string{"succeeds": good.Host, "fails": away.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			slow, open := slowToEnd(t)
			u := *good
			u.Host = slow + "," + other
			pool, err := tenantdb.NewPool(tenantdb.PoolConfig{ConnectTimeout: time.Second})
			must(t, err)
			err = query(t.Context(), pool, &hostdb.TenantCatalog{
				ID: hostdb.NewID(), DBURL: hostdb.Secret(u.String()),
			})
			if (err == nil) != (name == "succeeds") {
				t.Error(err)
			}
			if name == "succeeds" && open.Load() != 1 {
				t.Errorf("the first host has %d sockets, want that of the attempt which was outrun",
					open.Load())
			}
			must(t, pool.Close(t.Context()))
			if n := open.Load(); n != 0 {
				t.Errorf("the pool has closed, and the first host has %d sockets", n)
			}
		})
	}
}

// TestPool_retriesHostsThatDoNotServeSoon: one of the hosts may be promoted at any moment.
func TestPool_retriesHostsThatDoNotServeSoon(t *testing.T) {
	u, err := url.Parse(pgtest.Shared(t).Database(t))
	must(t, err)
	u.Host += "," + listen(t, func(net.Conn) {})
	u.RawQuery += "&target_session_attrs=standby"
	pool := faultPool(t, tenantdb.PoolConfig{ServerRetry: 10 * time.Millisecond})
	tenant := &hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(u.String())}
	eventually(t, func() bool {
		_ = query(t.Context(), pool, tenant)
		// after a tenant's own fault the eighth would wait for half a minute
		return pool.Stats().Servers[0].OpenFailures >= 8
	})
}

func TestPool_budgetsNameHostsInAnyOrder(t *testing.T) {
	pool := faultPool(t, tenantdb.PoolConfig{Budgets: map[string]int{"b.example:5432,a.example:5433": 7}})
	lease, err := pool.Lease(&hostdb.TenantCatalog{
		ID: hostdb.NewID(), DBURL: "postgres://u:p@a.example:5433,b.example/d",
	})
	must(t, err)
	defer lease.Release()
	if server := pool.Stats().Servers[0]; server.Budget != 7 ||
		server.Server != "a.example:5433,b.example:5432" {
		t.Errorf("%+v", server)
	}
	cfg := tenantdb.PoolConfig{Budgets: map[string]int{"a.example:5433,b.example": 7}}
	if _, err := tenantdb.NewPool(cfg); err == nil {
		t.Error("a host without a port is taken")
	}
}
