package checkout

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// newTenant returns a tenant whose handles serve any context.
func newTenant() *Tenant { return &Tenant{Pool: new(Pool)} }

// checkOut checks a connection out without a scope.
func checkOut(t *Tenant, conn Reclaimer, c *Checkout) bool {
	c.Init(conn)
	return t.CheckOut(c, nil, ForLeases)
}

// anyOf draws a key of a map.
func anyOf[V any](t *rapid.T, from map[int]V) int {
	return rapid.SampledFrom(slices.Sorted(maps.Keys(from))).Draw(t, "which")
}

// TestTenant_unscopedCheckoutsLastAsLongAsTheirLeases compares the two phases of counts with the model.
func TestTenant_unscopedCheckoutsLastAsLongAsTheirLeases(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tenant, m := newTenant(), newModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"retain": func(t *rapid.T) { m.began(tenant.Leases.Retain()) },
			"retain beside": func(t *rapid.T) {
				if len(m.leases) == 0 {
					m.began(tenant.Leases.RetainBeside(firstPhase)) // by a holder whose lease has ended
					return
				}
				of := anyOf(t, m.leases)
				phase, retained := tenant.Leases.RetainBeside(m.leases[of])
				m.beganBeside(of, phase, retained)
			},
			"check out": func(t *rapid.T) {
				c := new(modelConn)
				m.checkedOut(c, checkOut(tenant, c, &c.Checkout))
			},
			"return": func(t *rapid.T) {
				if len(m.conns) == 0 {
					t.Skip()
				}
				id := anyOf(t, m.conns)
				m.returned(id, m.conns[id].Return())
			},
			"release": func(t *rapid.T) {
				if len(m.leases) == 0 {
					t.Skip()
				}
				of := anyOf(t, m.leases)
				last, retired := tenant.Release(m.leases[of])
				if last && retired {
					tenant.Close()
				}
				m.ended(of, last, retired, tenant.Leases.Count())
			},
			"retire": func(t *rapid.T) {
				if tenant.Leases.Retire() != (len(m.leases) == 0) {
					t.Fatal("wrong about whether there is a lease")
				}
				if m.retired = true; len(m.leases) == 0 {
					tenant.Close()
				}
			},
			"": func(t *rapid.T) { m.check() },
		})
	})
}

// counted is a connection that counts its reclaims.
type counted struct {
	Checkout
	mu        sync.Mutex
	reclaimed bool
}

// Reclaim implements Reclaimer.
func (c *counted) Reclaim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reclaimed = true
}

func (c *counted) isReclaimed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reclaimed
}

// TestTenant_checkoutsAndLeasesComeAndGoAtOnce is for the race detector.
func TestTenant_checkoutsAndLeasesComeAndGoAtOnce(t *testing.T) {
	const workers, rounds = 8, 2_000
	tenant := newTenant()
	forgotten := make([][]*counted, workers)
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			for n := range rounds {
				phase, _ := tenant.Leases.Retain()
				c := new(counted)
				if !checkOut(tenant, c, &c.Checkout) {
					t.Error("refused under a lease")
				}
				if c.isReclaimed() {
					t.Error("reclaimed under a lease")
				}
				if (n+i)%3 == 0 {
					forgotten[i] = append(forgotten[i], c)
				} else if !c.Return() {
					t.Error("returned and reclaimed")
				}
				tenant.Release(phase)
			}
		})
	}
	running.Wait()
	phase, _ := tenant.Leases.Retain()
	tenant.Release(phase)
	for _, c := range slices.Concat(forgotten...) {
		if !c.isReclaimed() {
			t.Fatal("a connection that was forgotten wasn't reclaimed")
		}
	}
}
