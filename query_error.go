package tenantdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenantdb/tenantdb/hostdb"
)

// classifyQuery tells which refusal an error of a handler's query amounts to, where it wraps none: the server
// may have gone, or been too slow, while the query ran. ctx is the request's. Its end explains what a driver
// says of a query or a transaction that ended with it. A query that its caller cancelled is nobody's failure,
// and nobody waits for the answer.
func classifyQuery(ctx context.Context, err error) error {
	var pgErr *pgconn.PgError
	var liteErr *sqlite.Error
	var opErr *net.OpError
	var confined *errConfined
	var reason error
	if ended := ctx.Err(); ended != nil && (isPG(err, pgQueryCanceled) || errors.Is(err, sql.ErrTxDone)) {
		err = because(ended, err)
	}
	switch {
	case err == nil:
		return errors.New("WriteError without an error")
	case refusalOf(err) != unknown, errors.As(err, &confined), isRefused(err):
		return err
	case errors.Is(err, hostdb.ErrUnavailable): // of a query to the host database
		reason = ErrHostUnavailable
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed):
		reason = ErrTenantUnavailable
	case errors.As(err, &pgErr):
		reason = pgReason(pgErr)
	case errors.As(err, &liteErr):
		reason = sqliteReason(liteErr.Code())
	case pgconn.SafeToRetry(err), errors.As(err, &opErr), errors.Is(err, driver.ErrBadConn):
		reason = ErrTenantUnavailable
	}
	if reason == nil {
		return err
	}
	return because(reason, err)
}

// pgReason reads a PostgreSQL error's code (PostgreSQL documentation, appendix A); nil where the query itself
// was at fault, also by taking longer than statement_timeout: another try would cost as much.
func pgReason(err *pgconn.PgError) error {
	switch code := err.Code; {
	case isOutdated(err):
		return ErrTryAgain
	case code == "40001", code == "40P01", code == "55P03": // serialization failure, deadlock, lock not available
		return ErrTryAgain
	case code == pgQueryCanceled:
		return nil
	case strings.HasPrefix(code, "57"), strings.HasPrefix(code, "08"), code == "3D000": // shut down, connection, no such database
		return ErrTenantUnavailable
	case strings.HasPrefix(code, "53"): // out of connections, memory, disk
		return ErrBusy
	}
	return nil
}

// sqliteReason reads a SQLite result code (sqlite.org/rescode.html).
func sqliteReason(code int) error {
	switch code & 0xff { // the primary code
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return ErrBusy
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_INTERRUPT,
		sqlite3.SQLITE_READONLY:
		return ErrTenantUnavailable
	}
	return nil
}
