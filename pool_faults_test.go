package tenantdb_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// proxy is a network that can be cut.
type proxy struct {
	listener net.Listener
	target   string
	delay    atomic.Int64 // of each piece, ns
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	hung     chan struct{} // open while nothing gets through; nil otherwise
	refusing bool
	epoch    int // connections of an earlier one are forgotten
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

// serve carries one connection.
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

// carry copies one way until that way ends.
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

// forget swallows what comes by connections that there are, as an address translator does that has dropped
// them.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
}

// reset ends what there is, and refuse what comes, until mend.
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

// crowd asks for tenants' pages all the time, each request with a second to live, and keeps what the answers
// say.
type crowd struct {
	h       http.Handler
	good    sync.Map // slug → *atomic.Int64
	stop    chan struct{}
	members sync.WaitGroup
}

// newCrowd starts workers for each tenant.
func newCrowd(t *testing.T, w *world, slugs ...string) *crowd {
	t.Helper()
	page := func(rw http.ResponseWriter, r *http.Request) {
		var name string
		if err := tenantdb.DB(r.Context()).QueryRowContext(r.Context(), "SELECT name FROM me").Scan(&name); err != nil {
			rw.Header().Set("X-Cause", fmt.Sprintf("%T %v", err, err))
			tenantdb.WriteError(rw, r, err)
			return
		}
		_, _ = io.WriteString(rw, name)
	}
	c := &crowd{h: w.middleware(w.config()).Handler(http.HandlerFunc(page)), stop: make(chan struct{})}
	var once sync.Once
	halt := func() { once.Do(func() { close(c.stop) }); c.members.Wait() }
	t.Cleanup(halt)
	for _, slug := range slugs {
		good := new(atomic.Int64)
		c.good.Store(slug, good)
		for range 3 {
			c.members.Go(func() { c.ask(t, slug, good) })
		}
	}
	return c
}

// ask is one worker.
func (c *crowd) ask(t *testing.T, slug string, good *atomic.Int64) {
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		began := time.Now()
		rec := do(c.h, request("ann", slug).WithContext(ctx))
		cancel()
		if took := time.Since(began); took > 30*time.Second { // a second, the patience to cancel and to close, and a slow machine
			t.Errorf("%s: answered after %v", slug, took)
		}
		switch {
		case rec.Code == 200 && rec.Body.String() == slug:
			good.Add(1)
		case rec.Code == 503:
			<-time.After(10 * time.Millisecond) // as a client would
		default:
			t.Errorf("%s: %d %s: %s", slug, rec.Code, rec.Body, rec.Header().Get("X-Cause"))
		}
	}
}

// goesOn waits until a tenant has been served some more times.
func (c *crowd) goesOn(t *testing.T, slugs ...string) {
	t.Helper()
	for _, slug := range slugs {
		good, _ := c.good.Load(slug)
		n := good.(*atomic.Int64)
		for want, deadline := n.Load()+20, time.Now().Add(time.Minute); n.Load() < want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s isn't served", slug)
			}
			<-time.After(5 * time.Millisecond)
		}
	}
}

// refused waits until a tenant isn't served, as when its server is away.
func (c *crowd) refused(t *testing.T, slug string) {
	t.Helper()
	eventually(t, func() bool {
		return do(c.h, request("ann", slug)).Code == 503
	})
}

// moveTo moves a tenant to a fresh database of a server, reached at an address.
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

func TestAServerThatIsKilledAndComesBackIsServedFromAgain(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme, _ := w.tenant("acme", ann), w.tenant("other", ann)
	s := pgtest.Start(t)
	w.moveTo(acme, s, "")
	c := newCrowd(t, w, "acme", "other")
	for range 2 {
		c.goesOn(t, "acme", "other")
		s.Kill()
		c.refused(t, "acme")
		c.goesOn(t, "other")
		must(t, s.Start())
	}
	c.goesOn(t, "acme", "other")
}

func TestACutNetworkFailsInTimeAndIsSurvived(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme, _ := w.tenant("acme", ann), w.tenant("other", ann)
	base, err := url.Parse(pgtest.Shared(t).URL("postgres"))
	must(t, err)
	p := newProxy(t, base.Host)
	w.moveTo(acme, pgtest.Shared(t), p.listener.Addr().String())
	c := newCrowd(t, w, "acme", "other")
	for _, fault := range []struct {
		name string
		cut  func()
		away bool
	}{
		{"hang", p.hang, true},
		{"reset", p.reset, true},
		{"slow", func() { p.delay.Store(int64(20 * time.Millisecond)) }, false},
	} {
		c.goesOn(t, "acme", "other")
		fault.cut()
		if fault.away {
			eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return do(c.h, request("ann", "acme").WithContext(ctx)).Code == 503
			})
		}
		c.goesOn(t, "other")
		p.mend()
		c.goesOn(t, "acme")
	}
}

func TestADatabaseDroppedUnderLoadIsItsTenantsTroubleAlone(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme, _ := w.tenant("acme", ann), w.tenant("other", ann)
	w.moveTo(acme, pgtest.Shared(t), "")
	row, err := w.host.Tenants.Get(t.Context(), acme.ID)
	must(t, err)
	u, err := url.Parse(row.DBURL.Reveal())
	must(t, err)
	name := u.Path[1:]
	c := newCrowd(t, w, "acme", "other")
	c.goesOn(t, "acme", "other")
	admin(t, "DROP DATABASE "+name+" WITH (FORCE)")
	c.refused(t, "acme")
	c.goesOn(t, "other")
	// Restored from a backup, whole before it has its name again.
	admin(t, "CREATE DATABASE "+name+"_restored")
	restored := *u
	restored.Path += "_restored"
	conn, err := pgx.Connect(t.Context(), restored.String())
	must(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE me AS SELECT 'acme' AS name")
	must(t, err)
	must(t, conn.Close(t.Context()))
	admin(t, "ALTER DATABASE "+name+"_restored RENAME TO "+name)
	c.goesOn(t, "acme", "other")
}

func TestConnectionsThatTheNetworkForgotAreReplacedInTime(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	base, err := url.Parse(pgtest.Shared(t).URL("postgres"))
	must(t, err)
	p := newProxy(t, base.Host)
	w.moveTo(acme, pgtest.Shared(t), p.listener.Addr().String())
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID) // a context without a deadline
	must(t, err)
	defer leave()
	idle(t, ctx, 5)
	p.forget()
	quiet := time.Now()
	eventually(t, func() bool { return time.Since(quiet) > 1100*time.Millisecond }) // until then nobody would be asked
	asked := time.Now()
	if got := ask[string](t, ctx, "SELECT name FROM me"); got != "acme" {
		t.Errorf("read %q", got)
	}
	if took := time.Since(asked); took > 10*time.Second { // two for the first of them, little for each of the others, and a slow machine
		t.Errorf("after %v", took)
	}
}
