package keyedpool

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDial_aFullServersPlacesAreUsedSoonAfterTheyAreThere: others filled it for a minute.
func TestDial_aFullServersPlacesAreUsedSoonAfterTheyAreThere(t *testing.T) {
	patient := func(c *Config[string, int]) { c.Budget, c.AcquireTimeout = 40, time.Hour }
	inBubble(t, patient, func(r *rig) {
		var leases []*Lease[string, int]
		var held []Conn[string, int]
		for _, tenant := range strings.Fields("a b c") {
			lease, conn := r.hold(tenant)
			leases, held = append(leases, lease), append(held, conn)
		}
		r.failing(always(errServerFull))
		var waiting []*pending
		for i := range 20 {
			leases = append(leases, r.lease("w"+strconv.Itoa(i)))
			waiting = append(waiting, r.start(leases[len(leases)-1], nil))
		}
		time.Sleep(time.Minute)
		if st := r.server(); st.DialFailures < 30 || st.DialFailures > 100 {
			t.Errorf("%d dials in a minute", st.DialFailures)
		}
		r.failing(nil)
		time.Sleep(1100 * time.Millisecond)
		for i, p := range waiting {
			if !p.over() {
				t.Errorf("w%d still waits: %+v", i, r.server())
			}
			p.cancel()
			<-p.done
			if p.err == nil {
				held = append(held, p.conn)
			}
		}
		for _, conn := range held {
			conn.Release(Healthy)
		}
		for _, lease := range leases {
			lease.Release()
		}
	})
}

// TestDial_aServerThatStaysFullServesFromItsPlaces: what is tried beyond them holds up nobody for long.
func TestDial_aServerThatStaysFullServesFromItsPlaces(t *testing.T) {
	inBubble(t, budget(20), func(r *rig) {
		r.failing(func(string, string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.open > 3 {
				return errServerFull
			}
			return nil
		})
		began := time.Now()
		for i := range 1000 {
			r.use("t" + strconv.Itoa(i))
		}
		took := time.Since(began)
		if st := r.server(); st.Refusals > 0 || took > 10*time.Second ||
			float64(st.DialFailures) > 2+1.5*took.Seconds() {
			t.Errorf("a thousand dials took %v: %+v", took, st)
		}
	})
}

func TestDial_aServersPauseIsShortHoweverLongItWasAway(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(errServerDown))
		lease := r.lease("a")
		try := func() error {
			conn, err := lease.Acquire(r.t.Context(), nil)
			if err == nil {
				conn.Release(Healthy)
			}
			time.Sleep(10 * time.Millisecond)
			return err
		}
		for began := time.Now(); time.Since(began) < 5*time.Minute; {
			r.reason(try(), ErrServerUnavailable)
		}
		if st := r.server(); st.DialFailures > 700 {
			t.Errorf("%d dials in five minutes", st.DialFailures)
		}
		r.failing(nil)
		began := time.Now()
		for try() != nil {
		}
		if took := time.Since(began); took > 1100*time.Millisecond {
			t.Errorf("back after %v", took)
		}
		lease.Release()
	})
}

// TestDial_whoWaitsForADialAloneIsNotToldBusy: no connection of the server is in use.
func TestDial_whoWaitsForADialAloneIsNotToldBusy(t *testing.T) {
	slow := func(c *Config[string, int]) { c.DialTimeout = time.Minute }
	inBubble(t, slow, func(r *rig) {
		r.failing(always(context.DeadlineExceeded)) // it takes a connection and says nothing
		var leases []*Lease[string, int]
		var waiting []*pending
		for i := range 12 { // more than DialSlots
			leases = append(leases, r.lease("w"+strconv.Itoa(i)))
			waiting = append(waiting, r.start(leases[i], nil))
		}
		hurried, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		_, err := leases[0].Acquire(hurried, nil)
		r.reason(err, ErrServerUnavailable)
		for _, p := range waiting {
			<-p.done
			r.reason(p.err, ErrServerUnavailable)
		}
		for _, lease := range leases {
			lease.Release()
		}
	})
}

func TestDial_whoWaitsForAConnectionInUseIsToldBusy(t *testing.T) {
	slow := func(c *Config[string, int]) { c.DialTimeout, c.Budget = time.Minute, 2 }
	inBubble(t, slow, func(r *rig) {
		lease, held := r.hold("a")
		r.failing(always(context.DeadlineExceeded))
		others := []*Lease[string, int]{r.lease("b"), r.lease("c")}
		dialing, behind := r.start(others[0], nil), r.start(others[1], nil)
		own := r.start(lease, nil)
		for p, want := range map[*pending]error{dialing: ErrServerUnavailable, behind: ErrBusy,
			own: ErrBusy} {
			<-p.done
			r.reason(p.err, want)
		}
		held.Release(Healthy)
		for _, l := range append(others, lease) {
			l.Release()
		}
	})
}
