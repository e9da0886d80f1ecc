package tenantdb_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// proxy is a network that can be cut.
type proxy struct {
	listener net.Listener
	target   string
	delay    atomic.Int64 // of each piece, in nanoseconds
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	hung     chan struct{} // open while nothing gets through, otherwise nil
	refusing bool
	epoch    int // connections of earlier epochs are forgotten
}

// newProxy puts a network before a server.
func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{listener: listener, target: target, conns: make(map[net.Conn]struct{})}
	t.Cleanup(func() { p.mend(); _ = listener.Close(); p.reset() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(in)
		}
	}()
	return p
}

// serve forwards one connection.
func (p *proxy) serve(in net.Conn) {
	out, err := net.Dial("tcp", p.target)
	p.mu.Lock()
	if err != nil || p.refusing {
		p.mu.Unlock()
		_ = in.(*net.TCPConn).SetLinger(0)
		_ = in.Close()
		if out != nil {
			_ = out.Close()
		}
		return
	}
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	epoch := p.epoch
	p.mu.Unlock()
	go p.carry(in, out, epoch)
	p.carry(out, in, epoch)
}

// carry copies one direction until it ends.
func (p *proxy) carry(from, to net.Conn, epoch int) {
	piece := make([]byte, 4096)
	for {
		n, err := from.Read(piece)
		p.mu.Lock()
		hung, forgotten := p.hung, epoch != p.epoch
		p.mu.Unlock()
		if forgotten && err == nil {
			continue
		}
		if hung != nil {
			<-hung
		}
		if pause := p.delay.Load(); pause > 0 {
			<-time.After(time.Duration(pause))
		}
		if _, werr := to.Write(piece[:n]); err != nil || werr != nil {
			_ = to.(*net.TCPConn).CloseWrite()
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

// forget drops what comes by the existing connections, like an address translator that has lost them.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
}

// reset closes the existing connections and refuses new ones until mend.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = true
	for c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	clear(p.conns)
}

// mend lets everything through again.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = false
	p.delay.Store(0)
	if p.hung != nil {
		close(p.hung)
		p.hung = nil
	}
}

// listen serves every connection to a port of its own.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// silent sends nothing to its clients.
func silent(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// behindNetwork opens the world's host database a second time, through a network that can be cut.
func (w *world) behindNetwork() (*hostdb.DB, *proxy) {
	w.t.Helper()
	u, err := url.Parse(w.host.URI())
	must(w.t, err)
	network := newProxy(w.t.(*testing.T), u.Host)
	u.Host = network.listener.Addr().String()
	host, err := hostdb.Open(w.t.Context(), u.String())
	must(w.t, err)
	w.t.Cleanup(func() { _ = host.Close() })
	return host, network
}

// moveTo moves a tenant to a new database of a server, which is reached at an address.
func (w *world) moveTo(tenant *hostdb.TenantCatalog, s *pgtest.Server, address string) {
	w.t.Helper()
	target := s.Database(w.t)
	conn, err := pgx.Connect(w.t.Context(), target)
	must(w.t, err)
	_, err = conn.Exec(w.t.Context(), "CREATE TABLE me AS SELECT '"+tenant.Slug+"' AS name")
	must(w.t, err)
	must(w.t, conn.Close(context.Background()))
	u, err := url.Parse(target)
	must(w.t, err)
	if address != "" {
		u.Host = address
	}
	w.update(tenant, func(t *hostdb.TenantCatalog) { t.DBURL = hostdb.Secret(u.String()) })
}
