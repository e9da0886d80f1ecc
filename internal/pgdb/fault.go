package pgdb

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/hook"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// classify tells whose fault a failed dial is.
//
// The server is at fault where every tenant would meet the same: the network, a server that doesn't answer in
// time, and its own word that it starts or stops. Whatever else fails is up to the tenant: a hook, or what
// its address has, such as a password, a certificate, a database, an attribute that the server lacks. Each
// host is tried, with TLS and without, and err joins what every attempt met.
//
// Where one of several hosts answers and doesn't serve, it may be promoted soon, or the tenant's
// target_session_attrs asks for what isn't there. Then only the tenant waits, and not for long.
func classify(err error) keyedpool.Fault {
	var failed *hook.Error
	switch {
	case errors.Is(err, errTenantFull):
		return keyedpool.TenantFull
	case errors.As(err, &failed):
		return keyedpool.TenantFault
	}
	unreachable, unfit := true, false
	for _, attempt := range attempts(err) {
		var pgErr *pgconn.PgError
		switch {
		case errors.Is(attempt, pghosts.ErrUnfit):
			unfit = true
		case !errors.As(attempt, &pgErr):
			unreachable = unreachable && isNetwork(attempt)
		case pgErr.Code == sqlstate.TooManyConnections:
			return keyedpool.Backpressure
		case strings.HasPrefix(pgErr.Code, "57P") && pgErr.Code != sqlstate.DatabaseDropped:
			return keyedpool.ServerFault
		default:
			unreachable = false
		}
	}
	switch {
	case !unreachable:
		return keyedpool.TenantFault
	case unfit:
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
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &dns):
		return true
	case errors.As(err, &op):
		return op.Op != "remote error" && op.Op != "local error" // a TLS alert: one side refuses the other
	}
	return false
}
