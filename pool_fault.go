package tenantdb

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// databaseDropped is the one of PostgreSQL's conditions 57P.. that is not about the server.
const databaseDropped = "57P04"

// classifyPG tells whose fault a failed dial is. The server's are those that every tenant would meet: the
// network, a server that doesn't answer in time, and its own word that it starts or stops. Whatever else
// fails is up to the tenant's db_url: a password, a certificate, a database, an attribute that the server
// lacks. Each host is tried, with TLS and without, and err is what every attempt met. Where one of several
// hosts answers and doesn't serve it may be promoted soon, or the tenant's target_session_attrs asks for what
// isn't there: only the tenant waits, and not for long.
func classifyPG(err error) keyedpool.Fault {
	if errors.Is(err, errTenantFull) {
		return keyedpool.TenantFull
	}
	unreachable, away := true, false
	for _, attempt := range attempts(err) {
		var pgErr *pgconn.PgError
		switch {
		case errors.Is(attempt, pghosts.ErrUnfit):
			away = true
		case !errors.As(attempt, &pgErr):
			unreachable = unreachable && isNetwork(attempt)
		case pgErr.Code == tooManyConnections:
			return keyedpool.Backpressure
		case strings.HasPrefix(pgErr.Code, "57P") && pgErr.Code != databaseDropped:
			return keyedpool.ServerFault
		default:
			unreachable = false
		}
	}
	switch {
	case !unreachable:
		return keyedpool.TenantFault
	case away:
		return keyedpool.TenantAway
	}
	return keyedpool.ServerFault
}

// attempts returns the errors that an error joins.
func attempts(err error) []error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if joined, ok := inner.(interface{ Unwrap() []error }); ok {
			var all []error
			for _, one := range joined.Unwrap() {
				all = append(all, attempts(one)...)
			}
			return all
		}
	}
	return []error{err}
}

// isNetwork reports whether the other side couldn't be reached, went away or didn't answer in time.
func isNetwork(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &dns):
		return true
	case errors.As(err, &op):
		return op.Op != "remote error" && op.Op != "local error" // a TLS alert: one side doesn't accept the other
	}
	return false
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}
