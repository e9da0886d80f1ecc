package tenantdb

import (
	"fmt"
	"testing"
	"time"
)

// TestCutoffs_areBoundedAndForgetNothing drains more tenants than may have a cutoff of their own.
func TestCutoffs_areBoundedAndForgetNothing(t *testing.T) {
	var c cutoffs
	const drained = 10_000
	for i := range drained {
		c.raise(fmt.Sprint(i), time.Duration(1000+i))
	}
	c.raise("9999", 5) // a drain that began earlier and ended later
	for i := range drained {
		if id := fmt.Sprint(i); !c.refuse(id, time.Duration(1000+i-1)) || c.refuse(id, 1000+drained) ||
			c.refuse(id, 0) {
			t.Fatalf("tenant %d, drained at %d: only facts known to be older must be refused", i, 1000+i)
		}
	}
	if n := len(c.tenants); n > 4096 {
		t.Errorf("%d tenants have a cutoff of their own", n)
	}
}

// TestCutoffs_aLateDrainLowersNone records a drain that began before all others in a table that they have
// filled.
func TestCutoffs_aLateDrainLowersNone(t *testing.T) {
	var c cutoffs
	for i := range 4096 {
		c.raise(fmt.Sprint(i), time.Duration(1000+i))
	}
	c.raise("late", 5)
	for i := range 4096 {
		if !c.refuse(fmt.Sprint(i), time.Duration(1000+i-1)) {
			t.Fatalf("tenant %d, drained at %d: older facts are accepted", i, 1000+i)
		}
	}
}
