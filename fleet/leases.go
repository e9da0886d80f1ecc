package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// errTakenOver ends the work on a tenant when another process has its lease: it had expired by that process's
// clock, or an operator removed it.
var errTakenOver = errors.New("another process has taken the tenant over")

// leases are the tenants that a run migrates in this process, each under a lease in the ledger.
type leases struct {
	mu     sync.Mutex
	leased map[string]*lease // by tenant id
}

// lease is the work on one tenant.
type lease struct{ lose context.CancelCauseFunc }

// add adds a claimed tenant, until end is called. The context that it returns ends with errTakenOver when a
// renewal finds the lease gone.
func (l *leases) add(ctx context.Context, tenantID string) (leased context.Context, end func()) {
	leased, lose := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leased == nil {
		l.leased = make(map[string]*lease)
	}
	l.leased[tenantID] = &lease{lose}
	return leased, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.leased, tenantID)
		lose(nil)
	}
}

// renew calls extend, which extends all leases and returns the ids of the tenants that are still leased. Only
// tenants that were claimed before the call count as lost: extend may miss those that are claimed meanwhile.
func (l *leases) renew(extend func() ([]string, error)) error {
	l.mu.Lock()
	before := maps.Clone(l.leased)
	l.mu.Unlock()
	still, err := extend()
	if err != nil {
		return err
	}
	for tenantID, of := range before {
		if !slices.Contains(still, tenantID) { // harmless if the work has ended
			of.lose(errTakenOver)
		}
	}
	return nil
}
