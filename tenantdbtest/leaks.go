package tenantdbtest

import (
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"

	"github.com/tenantdb/tenantdb/hostdb"
)

// forgotten are the connections that were not given back.
type forgotten struct {
	mu  sync.Mutex // guards all
	all []string
}

// maxForgotten bounds how many connections are reported.
const maxForgotten = 20

// add is a tenantdb.PoolConfig.Forgotten.
func (f *forgotten) add(tenantID string, frames []uintptr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) < maxForgotten {
		f.all = append(f.all, fmt.Sprintf("of tenant %s, taken by %s", tenantID, takenBy(frames)))
	}
}

// takenBy returns the program's line in a stack: the innermost that is of no library.
func takenBy(pcs []uintptr) string {
	frames := runtime.CallersFrames(pcs)
	for {
		at, more := frames.Next()
		if !more || !isLibraryFunction(at.Function) {
			return fmt.Sprintf("%s at %s:%d", at.Function, at.File, at.Line)
		}
	}
}

// failOnForgotten fails the test if connections were forgotten.
func (k *Kit) failOnForgotten(f *forgotten) {
	k.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.all {
		k.t.Errorf("tenantdbtest: a connection %s, was not given back; close the rows, end the transaction, "+
			"or release the connection before the handler returns", one)
	}
}

// label has the goroutines that this one starts from now on found by failOnGoroutines.
func (k *Kit) label() {
	k.id = hostdb.NewID()
	k.labels = pprof.WithLabels(context.Background(), pprof.Labels(kitLabel, k.id))
	pprof.SetGoroutineLabels(k.labels)
}

// failOnGoroutines fails the test if goroutines are left that the test or its handlers started.
func (k *Kit) failOnGoroutines() {
	k.t.Helper()
	for _, stack := range awaitWork(k.id) {
		if k.options.AllowGoroutine != nil && k.options.AllowGoroutine(stack) {
			continue
		}
		function := outermost(stack)
		k.t.Errorf("tenantdbtest: a goroutine is still running %v after the test: %s, started by %s; "+
			"end it, or see Options.AllowGoroutine:\n%s", workTimeout, function, startOf(function),
			strings.TrimSpace(stack))
	}
}
