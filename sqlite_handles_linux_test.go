package tenantdb_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tenantdb/tenantdb"
)

// limitHandles limits how many files and sockets the process may have open, until the test ends.
func limitHandles(t *testing.T, n uint64) {
	t.Helper()
	var before syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: before.Max}))
	t.Cleanup(func() { must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)) })
}

func TestNewPool_refusesMoreSQLiteFilesThanTheProcessMayOpen(t *testing.T) {
	limitHandles(t, 256)
	for most, ok := range map[int]bool{0: true, 24: true, 36: true, 37: false, 256: false} {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxOpenSQLite: most})
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "ulimit") {
			t.Errorf("MaxOpenSQLite %d of 7 handles each with 256: %v", most, err)
		}
		if err != nil {
			continue
		}
		if got := pool.Stats().SQLite.MaxOpen; most == 0 && got != 24 {
			t.Errorf("by default %d may be open; want 24", got)
		}
		must(t, pool.Close(t.Context()))
	}
}

func TestSQLite_closesAFileWhenFileHandlesRunOut(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{MaxOpenSQLite: 100})
	ann := w.user("ann")
	var leases []*tenantdb.Lease
	for i := range 12 {
		tenant := w.tenant(fmt.Sprint("t", i), ann)
		must(t, w.pool.Drain(t.Context(), tenant.ID))
		lease, err := w.pool.Lease(tenant)
		must(t, err)
		defer lease.Release()
		leases = append(leases, lease)
	}
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	limitHandles(t, uint64(len(open)+12))
	for range 2 {
		for i, lease := range leases {
			var name string
			if err := lease.DB().QueryRowContext(t.Context(),
				"SELECT name FROM me").Scan(&name); err != nil || name != fmt.Sprint("t", i) {
				t.Fatalf("t%d: %q, %v", i, name, err)
			}
		}
	}
}
