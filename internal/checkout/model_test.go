package checkout

// reporter is what the model needs of a test.
type reporter interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// model knows of each connection that was checked out without a scope which leases were open then. The code
// under test only has two phases of counts.
type model struct {
	t       reporter
	leases  map[int]Phase // the open ones
	conns   map[int]*modelConn
	next    int
	retired bool
}

// modelConn is a connection in the model.
type modelConn struct {
	Checkout
	leases    map[int]bool // those open at checkout, and further ones of their holders
	reclaimed bool
	alone     bool // no lease has begun since, so nothing else may keep it
}

// Reclaim implements Reclaimer.
func (c *modelConn) Reclaim() { c.reclaimed = true }

func newModel(t reporter) *model {
	return &model{t: t, leases: make(map[int]Phase), conns: make(map[int]*modelConn)}
}

// began notes a lease. It says whether it was given, which it is unless the database is retired.
func (m *model) began(phase Phase, retained bool) {
	m.t.Helper()
	if retained == m.retired {
		m.t.Fatalf("retired %v, retained %v", m.retired, retained)
	}
	if retained {
		m.add(phase)
	}
}

// add notes a lease.
func (m *model) add(phase Phase) {
	for _, c := range m.conns {
		c.alone = false
	}
	m.leases[m.next] = phase
	m.next++
}

// beganBeside notes a further lease of a holder, which is always given.
func (m *model) beganBeside(of int, phase Phase, retained bool) {
	m.t.Helper()
	if !retained {
		m.t.Fatal("no second lease for a holder")
	}
	for _, c := range m.conns {
		if c.leases[of] {
			c.leases[m.next] = true
		}
	}
	m.add(phase)
}

// checkedOut notes a connection. It is given if there is a lease.
func (m *model) checkedOut(c *modelConn, given bool) {
	m.t.Helper()
	if given != (len(m.leases) > 0) {
		m.t.Fatalf("checked out %v with %d leases", given, len(m.leases))
	}
	if !given {
		return
	}
	c.leases, c.alone = make(map[int]bool), true
	for id := range m.leases {
		c.leases[id] = true
	}
	m.conns[m.next] = c
	m.next++
}

// returned notes that a connection was returned, unless it was reclaimed before.
func (m *model) returned(id int, first bool) {
	m.t.Helper()
	if first == m.conns[id].reclaimed {
		m.t.Fatal("returned and reclaimed, or neither")
	}
	delete(m.conns, id)
}

// ended notes the end of a lease: connections that are nobody's any more must be reclaimed by now.
func (m *model) ended(of int, last, retired bool, left int) {
	m.t.Helper()
	delete(m.leases, of)
	if left != len(m.leases) || last != (left == 0) || retired != m.retired {
		m.t.Fatalf("%d left, last %v, retired %v; want %d, retired %v",
			left, last, retired, len(m.leases), m.retired)
	}
	for _, c := range m.conns {
		delete(c.leases, of)
		if !c.reclaimed && (last || c.alone && len(c.leases) == 0) {
			m.t.Fatal("a connection is nobody's, and isn't reclaimed")
		}
	}
}

// check fails if a connection was reclaimed that a lease keeps.
func (m *model) check() {
	m.t.Helper()
	for _, c := range m.conns {
		if c.reclaimed && len(c.leases) > 0 {
			m.t.Fatal("reclaimed under a lease")
		}
	}
}
