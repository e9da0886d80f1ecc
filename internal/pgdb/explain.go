package pgdb

import (
	"context"

	"github.com/tenantdb/tenantdb/internal/refusal"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// explain adds to a statement's error what the server doesn't say: that the query was cancelled because its
// context ended, that the server can't write since it has become a standby, or that the connection remembers
// what has changed. Only the connection's holder may call it.
func (c *pooledConn) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	switch code := sqlstate.Of(err); {
	case code == sqlstate.QueryCanceled && ctx.Err() != nil:
		return refusal.WithCause(ctx.Err(), err)
	case code == sqlstate.ReadOnlyTransaction && c.onStandby():
		return refusal.WithCause(refusal.TenantUnavailable, err)
	case c.outdated(err):
		return refusal.WithCause(refusal.TryAgain, err)
	}
	return err
}

// onStandby reports whether the server is in recovery. In a transaction it can't be asked. There, what the
// server has reported by itself counts, as PostgreSQL 14 and later do.
func (c *pooledConn) onStandby() bool {
	pg := c.pg()
	if pg.IsClosed() || pg.IsBusy() || pg.TxStatus() != 'I' {
		return pg.ParameterStatus("in_hot_standby") == "on"
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	answer, err := pg.Exec(ctx, "SELECT pg_catalog.pg_is_in_recovery()").ReadAll()
	if err != nil || len(answer) != 1 || len(answer[0].Rows) != 1 {
		return true // it can't even tell
	}
	c.session.readOnly = string(answer[0].Rows[0][0]) == "t"
	return c.session.readOnly
}
