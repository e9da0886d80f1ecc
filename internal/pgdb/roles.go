package pgdb

import (
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// A server says "too many connections" with one code, whosever limit it is. The routine that reports the
// error tells which limit was reached.
const (
	limitOfRole     = "InitializeSessionUserId"
	limitOfDatabase = "CheckMyDatabase"
)

// roleConns counts connections by role and tenant, those being opened included. It tells whether a role's
// limit is one tenant's problem or the whole server's: where each tenant has a role of its own, one that has
// reached its limit must not hold up others.
type roleConns struct {
	mu    sync.Mutex                // guards conns
	conns map[string]map[string]int // server and role → tenant → connections
}

// add counts n more connections of a tenant, or fewer if n is negative.
func (r *roleConns) add(role, tenantID string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = make(map[string]map[string]int)
	}
	tenants := r.conns[role]
	if tenants == nil {
		tenants = make(map[string]int)
		r.conns[role] = tenants
	}
	if tenants[tenantID] += n; tenants[tenantID] == 0 {
		delete(tenants, tenantID)
	}
	if len(tenants) == 0 {
		delete(r.conns, role)
	}
}

// isShared reports whether other tenants connect as the role.
func (r *roleConns) isShared(role, tenantID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	tenants := r.conns[role]
	return len(tenants) > 1 || len(tenants) == 1 && tenants[tenantID] == 0
}

// errTenantFull says that a limit of the tenant's own leaves no place for one more connection.
var errTenantFull = errors.New("the limit of its database or role")

// markOwnLimit returns the error of a tenant's dial, as errTenantFull if it reached a limit of the tenant's
// own.
func (r *roleConns) markOwnLimit(err error, role, tenantID string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != sqlstate.TooManyConnections {
		return err
	}
	if pgErr.Routine == limitOfDatabase || pgErr.Routine == limitOfRole && !r.isShared(role, tenantID) {
		return fmt.Errorf("%w: %w", errTenantFull, err)
	}
	return err
}
