package tenantdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenantdb/tenantdb/hostdb"
)

// classifyQuery tells which refusal an error of a handler's query amounts to, where it wraps none: the server may have gone, or
// been too slow, while the query ran.
func classifyQuery(err error) error {
	var pgErr *pgconn.PgError
	var liteErr *sqlite.Error
	var opErr *net.OpError
	var confined *errConfined
	var reason error
	switch {
	case err == nil:
		return errors.New("WriteError without an error")
	case refusalOf(err) != unknown, errors.As(err, &confined), errors.Is(err, ErrWrongTenant): // pgx calls the last safe to try again
		return err
	case errors.Is(err, hostdb.ErrUnavailable): // of a query to the host database
		reason = ErrHostUnavailable
	case errors.As(err, &pgErr):
		reason = pgReason(pgErr.Code)
	case errors.As(err, &liteErr):
		reason = sqliteReason(liteErr.Code())
	case errors.Is(err, context.DeadlineExceeded), pgconn.SafeToRetry(err), errors.As(err, &opErr), errors.Is(err, driver.ErrBadConn):
		reason = ErrTenantUnavailable
	}
	if reason == nil {
		return err
	}
	return because(reason, err)
}

// pgReason reads a PostgreSQL error code (PostgreSQL documentation, appendix A); nil where the query itself was at fault.
func pgReason(code string) error {
	switch {
	case strings.HasPrefix(code, "57"), strings.HasPrefix(code, "08"), code == "3D000": // cancelled or shut down, connection, no such database
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
