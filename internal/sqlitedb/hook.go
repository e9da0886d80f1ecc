package sqlitedb

import (
	"context"
	"database/sql/driver"
	"sync"

	"github.com/tenantdb/tenantdb/internal/hook"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// afterConnect is the hook's name, for its errors.
const afterConnect = "PoolConfig.AfterConnectSQLite"

// setUp calls Config.AfterConnect on a new connection, and closes the connection if that fails. A hook that
// is left running keeps the connection and its place until it returns: nobody else may touch it meanwhile.
func (h *Handle) setUp(ctx context.Context, conn *fileConn) error {
	cfg := &h.db.files.cfg
	if cfg.AfterConnect == nil {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	on := &hookConn{conn: conn}
	err := hook.Call(bounded, afterConnect, func() error {
		defer on.end()
		return cfg.AfterConnect(bounded, h.db.tenant.ID, on)
	}, func() {
		_ = conn.Close()
		h.leave()
	})
	if hook.WasLeft(err) {
		return refusal.WithCause(refusal.TenantUnavailable, err)
	}
	if err == nil {
		err = conn.settle(bounded)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = ctx.Err()
	default:
		err = refusal.WithCause(refusal.TenantUnavailable, err)
	}
	_ = conn.Close()
	return err
}

// settle makes what a hook has done to a connection the state of a new one. A reader goes on to read only.
func (c *fileConn) settle(ctx context.Context) error {
	if c.guard.began && c.inTransaction() {
		return &hook.Error{Hook: afterConnect, Reason: "it left a transaction open"}
	}
	if c.reads {
		if _, err := c.ExecContext(ctx, "PRAGMA query_only = 1", nil); err != nil {
			return err
		}
	}
	c.guard = guard{}
	return nil
}

// hookConn is a connection for a hook until it returns. The guard judges its statements like a borrower's.
type hookConn struct {
	mu   sync.Mutex // held by whoever is in the driver; guards over
	conn *fileConn
	over bool
}

// ExecContext implements driver.ExecerContext.
func (h *hookConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return nil, driver.ErrBadConn
	}
	h.conn.guard.text = query
	result, err := h.conn.ExecContext(ctx, query, args)
	return result, h.conn.failed(err)
}

// end is called when the hook returns.
func (h *hookConn) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
}
