package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// TestPool_staysBelowTheServersLimit lets the server count: the role may have no more connections than the
// budget, so that one too many is refused with 53300. TENANTDB_TEST_FULL=1 runs it at full size, which is
// 1,000 databases and 200 workers for a minute.
func TestPool_staysBelowTheServersLimit(t *testing.T) {
	databases, workers, length := 60, 40, 3*time.Second
	if os.Getenv("TENANTDB_TEST_FULL") == "1" {
		databases, workers, length = 1000, 200, time.Minute
	}
	const budget = 20
	s := pgtest.Start(t, "wal_level=minimal", "max_wal_senders=0", "max_wal_size=4GB")
	tenants := manyDatabases(t, s, databases, budget)
	before := runtime.NumGoroutine()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxConns: budget, AcquireTimeout: time.Minute})
	must(t, err)
	zipf := make(chan int, workers)
	end := time.Now().Add(length)
	go func() {
		defer close(zipf)
		draw := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, uint64(databases-1))
		for time.Now().Before(end) {
			zipf <- int(draw.Uint64())
		}
	}()
	var served atomic.Int64
	together(workers, func(int) {
		for i := range zipf {
			name, err := visit(pool, tenants[i])
			if want := fmt.Sprintf("tenant%d", i); err != nil || name != want {
				t.Errorf("%s: read %q, %v", want, name, err)
				return
			}
			served.Add(1)
		}
	})
	stats := pool.Stats().Servers[0]
	t.Logf("%d databases, %d workers, %v: %d visits, %d connections opened, %d of them by steals",
		databases, workers, length, served.Load(), stats.Opens, stats.Evictions)
	if stats.OpenFailures != 0 || stats.Leased != 0 {
		t.Errorf("at the end: %+v", stats)
	}
	must(t, pool.Close(t.Context()))
	eventually(t, func() bool { return runtime.NumGoroutine() <= before })
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	must(t, err)
	defer conn.Close(t.Context())
	var left int
	must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").Scan(
		&left))
	if left != 0 {
		t.Errorf("%d connections are left", left)
	}
}

// TestPool_tenantsLimitAffectsItAlone: the limit of one database, or of a role that no other tenant has, is
// reported with the code of a full server, 53300. It must not delay other tenants, whoever has the
// connections.
func TestPool_tenantsLimitAffectsItAlone(t *testing.T) {
	s := pgtest.Start(t)
	tenants := manyDatabases(t, s, 7, 50)
	admin, err := pgx.Connect(t.Context(), s.URL("postgres"))
	must(t, err)
	defer admin.Close(t.Context())
	for _, statement := range []string{
		"ALTER DATABASE tenant0 CONNECTION LIMIT 1",
		"CREATE ROLE alone LOGIN PASSWORD 'alone' CONNECTION LIMIT 1",
	} {
		_, err = admin.Exec(t.Context(), statement)
		must(t, err)
	}
	at, err := url.Parse(tenants[1].DBURL.Reveal())
	must(t, err)
	at.User = url.UserPassword("alone", "alone")
	tenants[1].DBURL = hostdb.Secret(at.String())
	for limited, name := range []string{"database", "role"} {
		for _, elsewhere := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, held elsewhere %v", name, elsewhere), func(t *testing.T) {
				pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxConns: 20})
				must(t, err)
				defer func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					must(t, pool.Close(ctx))
				}()
				lease, err := pool.Lease(tenants[limited])
				must(t, err)
				defer lease.Release()
				var release func()
				if elsewhere {
					conn, err := pgx.Connect(t.Context(), tenants[limited].DBURL.Reveal())
					must(t, err)
					release = func() { must(t, conn.Close(t.Context())) }
				} else {
					conn, err := lease.PG().Acquire(t.Context())
					must(t, err)
					release = conn.Release
				}
				second := make(chan error, 1)
				go func() {
					_, err := lease.PG().Exec(t.Context(), "SELECT 1")
					second <- err
				}()
				eventually(t, func() bool { return pool.Stats().Servers[0].OpenFailures > 0 })
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				// at once, since an idle connection would be closed for the next
				for _, other := range tenants[2:] {
					l, err := pool.Lease(other)
					must(t, err)
					defer l.Release()
					conn, err := l.PG().Acquire(ctx)
					must(t, err)
					defer conn.Release()
				}
				release()
				must(t, <-second) // it waited for the only connection
			})
		}
	}
}

// TestPool_Close_forcedClosesSocketsOnly: one goroutine owns a pgx connection, so a forced close must touch
// only its socket. The race detector is the judge.
func TestPool_Close_forcedClosesSocketsOnly(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	for range 5 {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{})
		must(t, err)
		lease, err := pool.Lease(acme)
		must(t, err)
		conn, err := lease.PG().Acquire(t.Context())
		must(t, err)
		asked, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			_, err := conn.Conn().Exec(context.Background(), "SELECT 1")
			for close(asked); err == nil; _, err = conn.Conn().Exec(context.Background(), "SELECT 1") {
			}
			conn.Release()
		}()
		<-asked
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := pool.Close(ctx); err == nil {
			t.Error("closed, while somebody held a connection")
		}
		<-ended
		lease.Release()
		must(t, pool.Close(t.Context()))
	}
}

// manyDatabases makes databases that a limited role may use, each with a table for its own name.
func manyDatabases(t *testing.T, s *pgtest.Server, n, limit int) []*hostdb.TenantCatalog {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	must(t, err)
	defer conn.Close(ctx)
	for _, statement := range []string{
		fmt.Sprintf("CREATE ROLE app LOGIN PASSWORD 'app' CONNECTION LIMIT %d", limit),
		"CREATE DATABASE master OWNER app",
	} {
		_, err = conn.Exec(ctx, statement)
		must(t, err)
	}
	master, err := url.Parse(s.URL("master"))
	must(t, err)
	master.User = url.UserPassword("app", "app")
	owner, err := pgx.Connect(ctx, master.String())
	must(t, err)
	_, err = owner.Exec(ctx, "CREATE TABLE me (one bool PRIMARY KEY, name text)")
	must(t, err)
	must(t, owner.Close(ctx))
	tenants := make([]*hostdb.TenantCatalog, n)
	for i := range tenants {
		name := fmt.Sprintf("tenant%d", i)
		_, err = conn.Exec(ctx, "CREATE DATABASE "+name+" OWNER app TEMPLATE master")
		must(t, err)
		at := *master
		at.Path = "/" + name
		tenants[i] = &hostdb.TenantCatalog{ID: hostdb.NewID(), Slug: name, DBURL: hostdb.Secret(at.String())}
	}
	return tenants
}

// visit is what a request does: the first one writes the name of the database, all read it.
func visit(pool *tenantdb.Pool, tenant *hostdb.TenantCatalog) (name string, err error) {
	ctx := context.Background()
	lease, err := pool.Lease(tenant)
	if err != nil {
		return "", err
	}
	defer lease.Release()
	const read = "SELECT name FROM me"
	if rand.IntN(4) == 0 {
		err = lease.DB().QueryRowContext(ctx, read).Scan(&name)
	} else {
		err = lease.PG().QueryRow(ctx, read).Scan(&name)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return name, err
	}
	_, err = lease.PG().Exec(ctx, "INSERT INTO me VALUES (true, $1) ON CONFLICT DO NOTHING", tenant.Slug)
	return tenant.Slug, err
}
