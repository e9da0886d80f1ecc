package tenantdb

import (
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// A server says "too many connections" with one code, whosever limit it is, and by these routines which one
// was reached.
const (
	tooManyConnections = "53300"
	limitOfRole        = "InitializeSessionUserId"
	limitOfDatabase    = "CheckMyDatabase"
)

// roles counts connections, and those being opened, by role and tenant, to tell whose matter a role's limit
// is: where all tenants connect as one role it is that of the server, where each has its own it is the
// tenant's, and must not hold up others.
type roles struct {
	mu   sync.Mutex
	open map[string]map[string]int // server and role → tenant → connections
}

// count adds a tenant's connections, or takes them away.
func (r *roles) count(role, tenantID string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[string]map[string]int)
	}
	of := r.open[role]
	if of == nil {
		of = make(map[string]int)
		r.open[role] = of
	}
	if of[tenantID] += n; of[tenantID] == 0 {
		delete(of, tenantID)
	}
	if len(of) == 0 {
		delete(r.open, role)
	}
}

// othersUse reports whether other tenants connect as the role.
func (r *roles) othersUse(role, tenantID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.open[role]
	return len(of) > 1 || len(of) == 1 && of[tenantID] == 0
}

// errTenantFull: a limit of the tenant's own leaves no place for one more connection.
var errTenantFull = errors.New("the limit of its database or role")

// ownLimit marks the failure of a tenant's dial that reached a limit of its own.
func (r *roles) ownLimit(err error, role, tenantID string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != tooManyConnections {
		return err
	}
	if pgErr.Routine == limitOfDatabase || pgErr.Routine == limitOfRole && !r.othersUse(role, tenantID) {
		return fmt.Errorf("%w: %w", errTenantFull, err)
	}
	return err
}
