package fleet

import (
	"context"
	"sync"
)

// locks lets one caller at a time work on each tenant.
type locks struct {
	mu   sync.Mutex // guards held; not held while somebody works
	held map[string]chan struct{}
}

// lock waits for a tenant's turn and returns what ends it.
func (l *locks) lock(ctx context.Context, tenantID string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy := l.held[tenantID]
		if busy == nil {
			mine := make(chan struct{})
			if l.held == nil {
				l.held = make(map[string]chan struct{})
			}
			l.held[tenantID] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, tenantID)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
