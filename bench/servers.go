package main

import (
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb"
)

var serversScenario = Scenario{
	Name:  "servers",
	Title: "Another server in trouble",
	About: `One pool over two servers. Eight tenants are on the healthy one, with a goroutine each in a closed
loop, one row by its key. They are alone, or 32 goroutines ask meanwhile for a tenant on the other server,
through a proxy. The proxy lets nothing through any more (hangs, with connections open), or resets what is
open and refuses new connections (dead). Whoever is refused there tries again after 100 ms, and gives a
query a second. The figures are the eight's. Targets: their p99 ≤ 1.1 × alone, no errors.`,
	Open: openServers,
}

func openServers(b *Bench) (*Comparison, error) {
	e, err := b.databases(quietTenants + 1)
	if err != nil {
		return nil, err
	}
	home, err := url.Parse(e.server.URL("postgres"))
	if err != nil {
		return nil, err
	}
	p, err := newProxy(home.Host)
	if err != nil {
		return nil, err
	}
	b.onClose(p.close)
	query, err := e.leases(b, tenantdb.PoolConfig{MaxConns: sharedBudget}, func(i int) string {
		if i == quietTenants {
			return p.listener.Addr().String()
		}
		return home.Host
	}, pointQuery)
	if err != nil {
		return nil, err
	}
	quiet := patrons{query: query}
	for i := range quietTenants {
		quiet.tenants = append(quiet.tenants, i)
	}
	troubled := patrons{query: query, patience: time.Second, pause: 100 * time.Millisecond}
	for range clients {
		troubled.tenants = append(troubled.tenants, quietTenants)
	}
	round := func(besides patrons, trouble func()) func() ([]float64, error) {
		return func() ([]float64, error) {
			end := besides.start(b.ctx)
			besides.during(b.ctx, b.scale.load/10) // opens connections
			trouble()
			quiet.during(b.ctx, b.scale.load/10) // not counted
			shots := quiet.during(b.ctx, b.scale.load)
			p.mend()
			end()
			return []float64{latency(shots, 0.5, everyone), latency(shots, 0.99, everyone), wrongs(shots)},
				nil
		}
	}
	group := "8 tenants of a healthy server"
	return &Comparison{Bases: []string{alone}, Columns: []Column{
		{Name: "p50", Format: nanoseconds, Ratio: true}, {Name: "p99", Format: nanoseconds, Ratio: true},
		{Name: "errors", Format: integer, Worst: true}}, Rows: []Row{
		{group, alone, round(patrons{}, func() {})},
		{group, "beside a server that hangs", round(troubled, p.hang)},
		{group, "beside a server that is dead", round(troubled, p.die)},
	}}, nil
}

// at returns a database's URL with another address.
func at(database, address string) (string, error) {
	u, err := url.Parse(database)
	if err != nil {
		return "", err
	}
	u.Host = address
	return u.String(), nil
}

// proxy is a network in front of a server that can be cut.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex // guards what follows
	conns map[*net.TCPConn]struct{}
	hung  chan struct{} // open while nothing gets through, else nil
	dead  bool
}

// newProxy starts a proxy.
func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, target: target, conns: make(map[*net.TCPConn]struct{})}
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(in.(*net.TCPConn))
		}
	}()
	return p, nil
}

// serve carries one connection.
func (p *proxy) serve(in *net.TCPConn) {
	out, err := net.Dial("tcp", p.target)
	p.mu.Lock()
	if err != nil || p.dead {
		p.mu.Unlock()
		reset(in)
		if err == nil {
			_ = out.Close()
		}
		return
	}
	p.conns[in], p.conns[out.(*net.TCPConn)] = struct{}{}, struct{}{}
	p.mu.Unlock()
	go p.carry(in, out.(*net.TCPConn))
	p.carry(out.(*net.TCPConn), in)
}

// carry copies one direction until it ends.
func (p *proxy) carry(from, to *net.TCPConn) {
	piece := make([]byte, 4096)
	for {
		n, err := from.Read(piece)
		p.mu.Lock()
		hung := p.hung
		p.mu.Unlock()
		if hung != nil {
			<-hung
		}
		if _, werr := to.Write(piece[:n]); err != nil || werr != nil {
			_ = to.CloseWrite()
			return
		}
	}
}

// hang lets nothing through until mend.
func (p *proxy) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = make(chan struct{})
}

// die resets open connections and refuses new ones, until mend.
func (p *proxy) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	for c := range p.conns {
		reset(c)
	}
	clear(p.conns)
}

// reset ends a connection as a crash does.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// mend lets everything through again.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = false
	if p.hung != nil {
		close(p.hung)
		p.hung = nil
	}
}

// close ends the proxy.
func (p *proxy) close() {
	p.mend()
	_ = p.listener.Close()
	p.die()
}
