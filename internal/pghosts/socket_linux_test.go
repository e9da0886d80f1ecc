package pghosts_test

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// namespaceEnv is set where the test binary runs in a network namespace of its own.
const namespaceEnv = "TENANTDB_TEST_NAMESPACE"

// inNamespace runs a test in a network namespace of its own, which contains only the loopback interface and
// ends with the test. It returns true there, and false in the calling process once that run has passed.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	for _, program := range []string{"unshare", "ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s (Debian: util-linux, iproute2, nftables)", program)
		}
	}
	if out, err := exec.Command("unshare", "--net", "true").CombinedOutput(); err != nil {
		t.Skipf("needs root, to make a network namespace: %v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	again := exec.CommandContext(ctx, "unshare", "--net", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v",
		"-test.timeout=2m")
	again.Env = append(os.Environ(), namespaceEnv+"=1")
	out, err := again.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}

// The network drops every packet from and to the server, while statements run and before one is sent. No
// context ends.
func TestDial_failsWithinTwentySecondsWithoutPower(t *testing.T) {
	t.Parallel()
	if !inNamespace(t) {
		return
	}
	s := pgtest.Start(t)
	given := s.URL("postgres")
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{})
	must(t, err)
	lease, err := pool.Lease(&hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(given)})
	must(t, err)
	address, err := dburl.Parse(given)
	must(t, err)
	open := func() *pgx.Conn {
		conn, err := pghosts.New().Open(t.Context(), address.Config())
		must(t, err)
		return conn
	}
	running, sent := open(), open()
	watch, err := pgx.Connect(t.Context(), given)
	must(t, err)
	type end struct {
		of  string
		at  time.Time
		err error
	}
	const long = "SELECT pg_sleep(600)"
	ends := make(chan end, 3)
	go func() {
		_, err := lease.PG().Exec(context.Background(), long)
		ends <- end{"the pool's, under way", time.Now(), err}
	}()
	go func() {
		_, err := running.Exec(context.Background(), long)
		ends <- end{"another connection's, under way", time.Now(), err}
	}()
	for n := 0; n < 2; {
		must(t, watch.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query = $1",
			long).Scan(&n))
	}
	u, err := url.Parse(given)
	must(t, err)
	cut := time.Now()
	for _, rule := range []string{
		"add table inet power",
		"add chain inet power packets { type filter hook input priority 0; }",
		"add rule inet power packets tcp dport " + u.Port() + " drop",
		"add rule inet power packets tcp sport " + u.Port() + " drop",
	} {
		run(t, "nft", rule)
	}
	go func() {
		_, err := sent.Exec(context.Background(), "SELECT 1")
		ends <- end{"sent afterwards", time.Now(), err}
	}()
	for range 3 {
		e := <-ends
		t.Logf("%s: %v after the cut: %v", e.of, e.at.Sub(cut), e.err)
		if e.err == nil || e.at.Sub(cut) > 20*time.Second {
			t.Errorf("%s: %v after the cut: %v", e.of, e.at.Sub(cut), e.err)
		}
	}
}
