package tenantdb_test

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/tenantdb/tenantdb"
)

func TestSQLite_readOnlyFileIsUnavailable(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	file := w.sqliteFile(acme)
	must(t, w.pool.Drain(t.Context(), acme.ID))
	if os.Geteuid() == 0 { // root may write anything, so this thread becomes nobody
		const nobody = 65534
		for dir := filepath.Dir(file); len(dir) >= len(filepath.Dir(os.TempDir()+"/x")); dir = filepath.Dir(
			dir) {
			if dir == os.TempDir() {
				break
			}
			must(t, os.Chown(dir, nobody, nobody))
		}
		must(t, os.Chown(file, nobody, nobody))
		runtime.LockOSThread() // never unlocked: the thread ends with the test
		must(t, syscall.Setfsuid(nobody))
		defer func() { must(t, syscall.Setfsuid(0)) }()
	}
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, err := tenantdb.DB(r.Context()).ExecContext(r.Context(),
			"INSERT INTO me VALUES ('x')"); err != nil {
			tenantdb.WriteError(rw, r, err)
		}
	}))
	must(t, os.Chmod(file, 0o400))
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	// leaves an idle reader and a log that can't be written
	if got, err := names(t.Context(), lease.ReadDB()); err != nil || len(got) != 1 {
		t.Errorf("a read of a read-only file = %q, %v", got, err)
	}
	for range 2 {
		if rec := do(h, request("ann", "acme")); rec.Code != 503 || code(t, rec) != "tenant_unavailable" {
			t.Fatalf("a write into a read-only file: %d %s", rec.Code, rec.Body)
		}
	}
	must(t, os.Chmod(file, 0o600))
	if rec := do(h, request("ann", "acme")); rec.Code != 200 {
		t.Errorf("once it can be written again: %d %s", rec.Code, rec.Body)
	}
}
