package tenantdb

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// databaseDropped is the one of PostgreSQL's conditions 57P.. that is not about the server.
const databaseDropped = "57P04"

// classifyPG tells whose fault a failed dial is. The server's are those that every tenant would meet: the network, a server that doesn't
// answer in time, and its own word that it starts or stops. Whatever else fails is up to the tenant's db_url: a password, a certificate,
// a database, an attribute that the server lacks. pgx tries each host, with TLS and without, and returns what every attempt met.
func classifyPG(err error) keyedpool.Fault {
	if errors.Is(err, errTenantFull) {
		return keyedpool.TenantFull
	}
	unreachable := true
	for _, attempt := range attempts(err) {
		var pgErr *pgconn.PgError
		if !errors.As(attempt, &pgErr) {
			unreachable = unreachable && isNetwork(attempt)
			continue
		}
		switch {
		case pgErr.Code == tooManyConnections:
			return keyedpool.Backpressure
		case strings.HasPrefix(pgErr.Code, "57P") && pgErr.Code != databaseDropped:
			return keyedpool.ServerFault
		}
		unreachable = false
	}
	if unreachable {
		return keyedpool.ServerFault
	}
	return keyedpool.TenantFault
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
