package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// errTaken: the lease on a tenant was over by another process's clock, or somebody took it away. That one
// works on the tenant now.
var errTaken = errors.New("another process has taken the tenant over")

// holds are the tenants on which a run works in this process, each under a lease in the ledger.
type holds struct {
	mu   sync.Mutex
	held map[string]*hold // by tenant id
}

// hold is the work on one tenant.
type hold struct{ lose context.CancelCauseFunc }

// begin holds a claimed tenant. The context that it returns ends with errTaken when a sign of life finds the
// lease gone.
func (h *holds) begin(ctx context.Context, tenantID string) (held context.Context, end func()) {
	held, lose := context.WithCancelCause(ctx)
	mine := &hold{lose}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = make(map[string]*hold)
	}
	h.held[tenantID] = mine
	return held, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.held, tenantID)
		lose(nil)
	}
}

// beat gives a sign of life, which returns the tenants that are still this process's. Only those that were
// held before it was given are judged by it: who is claimed meanwhile may be missing.
func (h *holds) beat(sign func() ([]string, error)) error {
	h.mu.Lock()
	before := maps.Clone(h.held)
	h.mu.Unlock()
	still, err := sign()
	if err != nil {
		return err
	}
	for tenantID, of := range before {
		if !slices.Contains(still, tenantID) { // one that has ended by now doesn't listen any more
			of.lose(errTaken)
		}
	}
	return nil
}
