package tenantdb

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Conditions of PostgreSQL (its documentation, appendix A) that are the connection's business.
const (
	pgQueryCanceled       = "57014"
	pgReadOnlyTransaction = "25006"
)

// isPG reports whether an error is a condition that a PostgreSQL server reported.
func isPG(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}

// explain adds to a statement's error what the connection knows and the server doesn't say: that the query
// was cancelled because its context ended, or that it can't write because the server has become a standby.
// Only the connection's holder may call it.
func (c *pooledConn) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case isPG(err, pgQueryCanceled) && ctx.Err() != nil:
		return because(ctx.Err(), err)
	case isPG(err, pgReadOnlyTransaction) && c.onStandby():
		return because(ErrTenantUnavailable, err)
	case c.misremembered(err):
		return because(ErrTryAgain, err)
	}
	return err
}

// explain is pooledConn's, for a connection that is on loan.
func (c *Conn) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return c.conn.Value().explain(ctx, err)
}

// noteError keeps what an error tells of the server, before whoever sent the statement has it.
func (s *session) noteError(err *pgconn.PgError) {
	s.readOnly = s.readOnly || err.Code == pgReadOnlyTransaction
	s.outdated = s.outdated || isOutdated(err)
}

// onStandby reports whether the server is in recovery. A transaction can't ask; there it counts what the
// server has reported by itself, as PostgreSQL 14 and later do.
func (c *pooledConn) onStandby() bool {
	pg := c.Conn.Conn().PgConn()
	if pg.IsClosed() || pg.IsBusy() || pg.TxStatus() != 'I' {
		return pg.ParameterStatus("in_hot_standby") == "on"
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverPatience)
	defer cancel()
	answer, err := pg.Exec(ctx, "SELECT pg_catalog.pg_is_in_recovery()").ReadAll()
	if err != nil || len(answer) != 1 || len(answer[0].Rows) != 1 {
		return true // it can't even tell
	}
	c.session.readOnly = string(answer[0].Rows[0][0]) == "t"
	return c.session.readOnly
}
