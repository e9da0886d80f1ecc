package refusal

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
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// OfQuery adds to an error of a handler's query the refusal that it amounts to. The server may have gone, or
// been too slow, while the query ran. An error that wraps a refusal already is returned as it is, and so is
// one that is the query's own fault.
//
// ctx is the request's. If it has ended, its error explains what a driver says of a query or a transaction
// that ended with it. A query that its caller cancelled isn't refused: nobody waits for the answer.
func OfQuery(ctx context.Context, err error) error {
	if err == nil {
		return errors.New("WriteError without an error")
	}
	if ended := ctx.Err(); ended != nil &&
		(sqlstate.Of(err) == sqlstate.QueryCanceled || errors.Is(err, sql.ErrTxDone)) {
		err = WithCause(ended, err)
	}
	if Of(err) != Unknown || IsMisuse(err) {
		return err
	}
	if reason := reasonOf(err); reason != nil {
		return WithCause(reason, err)
	}
	return err
}

// reasonOf returns the refusal that a driver's error amounts to, nil where the query was at fault.
func reasonOf(err error) error {
	var (
		server  *pgconn.PgError
		library *sqlite.Error
		network *net.OpError
	)
	switch {
	case errors.Is(err, hostdb.ErrUnavailable): // of a query to the host database
		return HostUnavailable
	case errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed):
		return TenantUnavailable
	case errors.As(err, &server):
		return ofPostgreSQL(server)
	case errors.As(err, &library):
		return ofSQLite(library.Code())
	case pgconn.SafeToRetry(err), errors.As(err, &network), errors.Is(err, driver.ErrBadConn):
		return TenantUnavailable
	}
	return nil
}

// ofPostgreSQL returns the refusal that a server's error amounts to. It is nil if the query itself was at
// fault. A statement_timeout is the query's fault too: another try would take as long.
func ofPostgreSQL(err *pgconn.PgError) error {
	if IsOutdated(err) {
		return TryAgain
	}
	switch err.Code {
	case sqlstate.SerializationFailure, sqlstate.DeadlockDetected, sqlstate.LockNotAvailable:
		return TryAgain
	case sqlstate.QueryCanceled:
		return nil
	case sqlstate.InvalidCatalogName:
		return TenantUnavailable
	}
	switch {
	case strings.HasPrefix(err.Code, "57"), strings.HasPrefix(err.Code, "08"): // shutdown, connection
		return TenantUnavailable
	case strings.HasPrefix(err.Code, "53"): // no more connections, memory or disk
		return Busy
	}
	return nil
}

// IsOutdated reports whether an error can only come of what a connection remembers of a statement or a type
// that has changed since.
func IsOutdated(err *pgconn.PgError) bool {
	switch err.Code {
	case sqlstate.FeatureNotSupported:
		return err.Routine == "RevalidateCachedQuery" // cached plan must not change result type
	case sqlstate.ProtocolViolation:
		return err.Routine == "PortalSetResultFormat" // the number of columns has changed
	case sqlstate.InvalidStatementName, sqlstate.DuplicatePreparedStatement:
		// pgx gives its statements these names.
		return strings.Contains(err.Message, "stmt_") || strings.Contains(err.Message, "stmtcache_")
	case sqlstate.InternalError:
		return strings.HasPrefix(err.Message, "cache lookup failed for type ") // it was dropped
	}
	return false
}

// ofSQLite returns the refusal that a SQLite result code amounts to (sqlite.org/rescode.html), nil where the
// query itself was at fault.
func ofSQLite(code int) error {
	switch code & 0xff { // the primary code
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return Busy
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT,
		sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY:
		return TenantUnavailable
	}
	return nil
}
