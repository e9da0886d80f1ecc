package tenantdb_test

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// socketsOf counts the sessions of the role app on a server, apart from those named "quiet", until stop
// closes. It returns the highest count.
func socketsOf(t *testing.T, s *pgtest.Server, stop <-chan struct{}) (most int) {
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Error(err)
		return 0
	}
	defer conn.Close(context.Background())
	for {
		select {
		case <-stop:
			return most
		default:
		}
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'app' AND application_name <> 'quiet'`).Scan(&n); err != nil {
			return most // the server was killed
		}
		most = max(most, n)
	}
}

// atBoth sets a db_url that names two servers in that order.
func atBoth(t *testing.T, tenant *hostdb.TenantCatalog, first, second *pgtest.Server) {
	t.Helper()
	u, err := url.Parse(tenant.DBURL.Reveal())
	must(t, err)
	one, err := url.Parse(first.URL(""))
	must(t, err)
	two, err := url.Parse(second.URL(""))
	must(t, err)
	u.Host = one.Host + "," + two.Host
	tenant.DBURL = hostdb.Secret(u.String())
}

// TestPool_hostsOfADBURLShareOneBudget checks that the hosts of a db_url count as one server, in any order.
// It does so while both work, while the primary hangs and its standby is promoted, when the old primary
// resumes as if nothing had happened, and while the new one is down. Each request has one second.
func TestPool_hostsOfADBURLShareOneBudget(t *testing.T) {
	const budget, crowd = 5, 4
	primary := pgtest.Start(t)
	tenants := manyDatabases(t, primary, 7, 100)
	standby := primary.Standby(t)
	for i, tenant := range tenants {
		if i%2 == 0 {
			atBoth(t, tenant, primary, standby)
		} else {
			atBoth(t, tenant, standby, primary)
		}
	}
	pool := faultPool(t, tenantdb.PoolConfig{MaxConns: budget})
	standbyURL, err := url.Parse(standby.URL(""))
	must(t, err)

	// This pool has an idle connection to the old primary.
	quiet, ann, bob := faultPool(t, tenantdb.PoolConfig{}), *tenants[0], *tenants[1]
	ann.DBURL += "&application_name=quiet"
	bob.DBURL += "&application_name=quiet"
	port, err := portOf(quiet, &ann)
	must(t, err)

	stop := make(chan struct{})
	var counting, running sync.WaitGroup
	var most [2]int
	for i, s := range []*pgtest.Server{primary, standby} {
		counting.Go(func() { most[i] = socketsOf(t, s, stop) })
	}
	var mu sync.Mutex
	served := make(map[string]int) // by tenant and port
	var away atomic.Bool
	for i := range tenants {
		for range crowd {
			running.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					port, err := portOf(pool, tenants[i])
					switch {
					case err == nil:
						mu.Lock()
						served[tenants[i].Slug+" "+port]++
						mu.Unlock()
					case !away.Load():
						t.Errorf("%s: %v", tenants[i].Slug, err)
						return
					default:
						<-time.After(10 * time.Millisecond)
					}
				}
			})
		}
	}
	defer func() {
		close(stop)
		running.Wait()
		counting.Wait()
		t.Logf("at most %v sessions on the two servers, the budget is %d", most, budget)
		if most[0] > budget || most[1] > budget || most[0] == 0 || most[1] == 0 {
			t.Errorf("at most %v sessions on the two servers, the budget is %d", most, budget)
		}
	}()
	// all waits until the server has served each tenant ten more times, and returns how long that took.
	all := func(s *pgtest.Server) time.Duration {
		t.Helper()
		u, err := url.Parse(s.URL(""))
		must(t, err)
		began := time.Now()
		mu.Lock()
		clear(served)
		mu.Unlock()
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, tenant := range tenants {
				if served[tenant.Slug+" "+u.Port()] < 10 {
					return false
				}
			}
			return true
		})
		return time.Since(began)
	}
	all(primary)

	away.Store(true)
	resume := primary.Hang(t)
	standby.Promote(t)
	took := all(standby)
	t.Logf("the primary hangs: all tenants are served %v after the promotion", took)
	if took > 5*time.Second {
		t.Errorf("the primary hangs: all tenants are served %v after the promotion, want 5 s", took)
	}
	away.Store(false)
	all(standby)
	if next, err := portOf(quiet, &bob); err != nil || next == port {
		t.Errorf("port %s, %v, want the new primary's", next, err)
	}
	mu.Lock()
	clear(served)
	mu.Unlock()
	resume()
	if next, err := portOf(quiet, &ann); err != nil || next == port {
		t.Errorf("port %s, %v, want the new primary's", next, err)
	}
	all(standby)
	mu.Lock()
	for who := range served {
		if who[len(who)-len(standbyURL.Port()):] != standbyURL.Port() {
			t.Errorf("beside an old primary that goes on, %s", who)
		}
	}
	mu.Unlock()

	away.Store(true)
	standby.Kill()
	for range 5 {
		if port, err := portOf(pool, tenants[0]); !errors.Is(err, tenantdb.ErrTenantUnavailable) &&
			!errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with the old primary alone: %s, %v", port, err)
		}
	}
	must(t, standby.Start())
	if took := all(standby); took > 5*time.Second {
		t.Errorf("the new primary is back: all tenants are served after %v, want 5 s", took)
	}
}

// portOf asks a tenant's database for the port of its server, within a second.
func portOf(pool *tenantdb.Pool, tenant *hostdb.TenantCatalog) (port string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	lease, err := pool.Lease(tenant)
	if err != nil {
		return "", err
	}
	defer lease.Release()
	err = lease.PG().QueryRow(ctx, "SHOW port").Scan(&port)
	return port, err
}
