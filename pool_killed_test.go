package tenantdb_test

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// sleepVariable makes TestPool_killedProcessFreesItsConnections the process that is killed.
const sleepVariable = "TENANTDB_TEST_SLEEP"

// TestPool_killedProcessFreesItsConnections kills a process whose queries would run on. Its connections are
// free within the check interval and a second. Servers before PostgreSQL 14 have no such setting, and poolers
// refuse it; both serve nevertheless.
func TestPool_killedProcessFreesItsConnections(t *testing.T) {
	const sleepers = 3
	if given := os.Getenv(sleepVariable); given != "" {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{})
		must(t, err)
		lease, err := pool.Lease(&hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(given)})
		must(t, err)
		var all sync.WaitGroup
		for range sleepers {
			all.Go(func() { _, _ = lease.PG().Exec(context.Background(), "SELECT pg_sleep(20)") })
		}
		all.Wait()
		return
	}
	direct := pgtest.Shared(t).Database(t)
	watch, err := pgx.Connect(t.Context(), direct)
	must(t, err)
	defer watch.Close(context.Background())
	var version int
	must(t, watch.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int").Scan(&version))
	count := func() (n int) {
		must(t, watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE query = 'SELECT pg_sleep(20)' AND state = 'active'`).Scan(&n))
		return n
	}
	process := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	process.Env = append(os.Environ(), sleepVariable+"="+direct)
	must(t, process.Start())
	eventually(t, func() bool { return count() == sleepers })
	must(t, process.Process.Kill())
	_ = process.Wait()
	began := time.Now()
	if version < 140000 {
		_, err := watch.Exec(t.Context(),
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(20)'")
		must(t, err)
		t.Logf("PostgreSQL %d keeps them until their queries end", version/10000)
	}
	eventually(t, func() bool { return count() == 0 })
	t.Logf("freed after %v", time.Since(began))
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("freed after %v", took)
	}
}

// TestPooler_withoutTheClientCheckServes also checks that the pooler is asked for the setting only once.
func TestPooler_withoutTheClientCheckServes(t *testing.T) {
	s := pgtest.Shared(t)
	pooler := pgtest.StartPgBouncer(t, s)
	pool := faultPool(t, tenantdb.PoolConfig{})
	for range 2 {
		tenant := &hostdb.TenantCatalog{
			ID: hostdb.NewID(), DBURL: hostdb.Secret(pooler.Through(t, s.Database(t))),
		}
		must(t, query(t.Context(), pool, tenant))
	}
	if server := pool.Stats().Servers[0]; server.OpenFailures != 0 {
		t.Errorf("%+v", server)
	}
}

// TestPool_asksTheServerToCheckForClients also checks that a setting in db_url stays as it is.
func TestPool_asksTheServerToCheckForClients(t *testing.T) {
	direct := pgtest.Shared(t).Database(t)
	pool := faultPool(t, tenantdb.PoolConfig{})
	for _, c := range []struct{ query, idle string }{{"", "10"}, {"tcp_keepalives_idle=77", "77"}} {
		address, err := url.Parse(direct)
		must(t, err)
		address.RawQuery = c.query
		lease, err := pool.Lease(&hostdb.TenantCatalog{
			ID: hostdb.NewID(), DBURL: hostdb.Secret(address.String()),
		})
		must(t, err)
		defer lease.Release()
		var version int
		must(t, lease.PG().QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int").Scan(
			&version))
		if version < 140000 { // it refuses the unknown setting, and gets none
			t.Skipf("PostgreSQL %d", version/10000)
		}
		for name, want := range map[string]string{
			"client_connection_check_interval": "2s", "tcp_keepalives_idle": c.idle,
			"tcp_keepalives_interval": "3", "tcp_keepalives_count": "3", "tcp_user_timeout": "15s",
		} {
			var got string
			must(t, lease.PG().QueryRow(t.Context(),
				"SELECT setting || coalesce(CASE WHEN unit = 'ms' THEN 'ms' END, '') "+
					"FROM pg_settings WHERE name = $1", name).Scan(&got))
			got = strings.Replace(got, "000ms", "s", 1)
			if got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	}
}
