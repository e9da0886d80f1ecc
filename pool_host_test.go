package tenantdb_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestPool_servesOneHostDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.middleware(w.config())
		w.middleware(w.config()) // of the same host database
		again, err := hostdb.Open(t.Context(), w.host.URI())
		must(t, err)
		defer again.Close()
		other, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "other.db"))
		must(t, err)
		defer other.Close()
		cfg := w.config()
		cfg.Host = again
		w.middleware(cfg)
		cfg.Host = other
		if mw, err := tenantdb.New(cfg); err == nil ||
			!strings.Contains(err.Error(), "make a Pool for each host database") {
			t.Errorf("New for another host database on the pool = %v, %v", mw, err)
		}
		cfg.Pool = nil
		w.middleware(cfg)
	})
	memory := func() *hostdb.DB {
		db, err := hostdb.Open(t.Context(), "sqlite::memory:")
		must(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Pool, cfg.Host = nil, memory()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{})
	must(t, err)
	cfg.Pool = pool
	w.middleware(cfg)
	cfg.Host = memory()
	if mw, err := tenantdb.New(cfg); err == nil {
		t.Errorf("New for another host database in memory = %v", mw)
	}
}

// TestPool_twoPoolsOfOneHostShareTenants: pools of the same host database share its tenants. Pools of two
// host databases don't, even if one began as a copy of the other.
func TestPool_twoPoolsOfOneHostShareTenants(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	first := w.middleware(w.config())
	enter := func(host *hostdb.DB) context.Context {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
		must(t, err)
		t.Cleanup(func() { _ = pool.Close(context.Background()) })
		cfg := w.config()
		cfg.Host, cfg.Pool = host, pool
		ctx, leave, err := w.middleware(cfg).Enter(t.Context(), acme.ID)
		must(t, err)
		t.Cleanup(leave)
		return ctx
	}
	ctx, leave, err := first.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	use := queryOf(tenantdb.DB(ctx))
	must(t, use(enter(w.host)))
	copied, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "copy.db"))
	must(t, err)
	defer copied.Close()
	row := *acme
	must(t, copied.Tenants.Insert(t.Context(), &row))
	if err := use(enter(copied)); !errors.Is(err, tenantdb.ErrWrongTenant) {
		t.Errorf("with the context of a copy's tenant of the same id: %v", err)
	}
}
