package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// The pool of PostgreSQL connections: its target is a tenant's db_url, its connection pgx's for database/sql,
// which is a native one inside. So DB and PG draw on one budget.
type (
	pgPool  = keyedpool.Pool[hostdb.Secret, *pooledConn]
	pgLease = keyedpool.Lease[hostdb.Secret, *pooledConn]
	pgConn  = keyedpool.Conn[hostdb.Secret, *pooledConn]
)

// pooledConn is a connection and the socket under it.
type pooledConn struct {
	*stdlib.Conn
	socket      *awaitedConn
	session     *session
	standing    pghosts.Standing
	guard       *pgGuard
	resetAlways bool
	asked       time.Duration // when it was last known to answer, since start
	closed      func()        // hears of its end
	abandoned   atomic.Bool   // somebody may still be using it: nothing but the socket may be touched
}

// serverPatience is how long a cancelled query, a reset or a close may take on the server before the
// connection is given up.
const serverPatience = 2 * time.Second

// newPGPool makes the pool.
func (p *Pool) newPGPool() (*pgPool, error) {
	budgets := make(map[string]int)
	for server, budget := range p.cfg.Budgets {
		budgets[sortedHosts(server)] = budget / p.cfg.Processes
	}
	return keyedpool.New(keyedpool.Config[hostdb.Secret, *pooledConn]{
		Dial:           p.dialPG,
		Close:          closePG,
		Server:         func(_ string, url hostdb.Secret) (string, error) { return pgServer(url) },
		Classify:       classifyPG,
		OnDormant:      p.slim,
		Budget:         p.cfg.MaxConns / p.cfg.Processes,
		Budgets:        budgets,
		TenantCap:      p.cfg.MaxConnsPerTenant,
		AcquireTimeout: p.cfg.AcquireTimeout,
		DialTimeout:    p.cfg.ConnectTimeout,
		ServerRetry:    p.cfg.ServerRetry,

		BeforeForcedClose: func(c *pooledConn) { c.abandoned.Store(true) },
	})
}

// dialPG opens a connection. Where the password is refused the catalog is asked once more: it may have been
// changed, and the change not have been heard of. Then the tenant goes on in a new generation, and so do
// those who wait for this dial.
func (p *Pool) dialPG(ctx context.Context, tenantID string, url hostdb.Secret) (*pooledConn, error) {
	address, err := parsePG(url)
	if err != nil {
		return nil, err
	}
	role := address.Server() + " " + address.User()
	p.roles.count(role, tenantID, 1)
	conn, err := p.connectPG(ctx, address)
	if err == nil && !p.cfg.SessionPooler {
		if err = conn.noticePooler(ctx, address.Unnamed()); err != nil {
			_ = closePG(ctx, conn)
		}
	}
	if err == nil {
		conn.closed = func() { p.roles.count(role, tenantID, -1) }
		return conn, nil
	}
	defer p.roles.count(role, tenantID, -1)
	var pgErr *pgconn.PgError
	if host := p.host.Load(); host != nil && errors.As(err, &pgErr) && pgErr.Code == "28P01" {
		asked := time.Now()
		if tenant, err := host.Tenants.Get(ctx, tenantID); err == nil {
			p.renew(tenant, asked)
		}
	}
	return nil, p.roles.ownLimit(err, role, tenantID)
}

// parsePG reads a db_url.
func parsePG(url hostdb.Secret) (*dburl.URL, error) {
	address, err := dburl.Parse(url.Reveal())
	if err != nil {
		return nil, fmt.Errorf("db_url: %w", err)
	}
	return address, nil
}

// pgServer names the server of a db_url.
func pgServer(url hostdb.Secret) (string, error) {
	address, err := parsePG(url)
	if err != nil {
		return "", err
	}
	return address.Server(), nil
}

// connectPG opens a connection to the host that serves. Where there are several it may have a socket to each
// for a moment, and never two to one. The connection's close waits for the end of all, so that no host sees
// more sockets than the budget has places.
func (p *Pool) connectPG(ctx context.Context, address *dburl.URL) (*pooledConn, error) {
	cfg := address.Config()
	if !pghosts.Several(cfg) {
		return p.connectHost(ctx, cfg)
	}
	conn, standing, err := pghosts.Connect(ctx, p.hosts, cfg, p.connectHost, func(late *pooledConn) {
		ctx, cancel := context.WithTimeout(context.Background(), serverPatience)
		defer cancel()
		_ = closePG(ctx, late)
	})
	if err != nil {
		return nil, err
	}
	conn.standing = standing
	return conn, nil
}

// clientChecks are the settings by which a server notices that its client has gone, and frees the connection.
// Without them a process that was killed keeps its connections until its queries end, and one behind a
// network that drops packets until the server's system asks, which Linux does after two hours.
//
// A pooler such as PgBouncer refuses clients with settings like these, as does a server that does not know
// one: those before PostgreSQL 14 don't look for the client while a query runs.
var clientChecks = map[string]string{
	"client_connection_check_interval": "2s",
	"tcp_keepalives_idle":              "10",
	"tcp_keepalives_interval":          "3",
	"tcp_keepalives_count":             "3",
	"tcp_user_timeout":                 "15s",
}

// connectHost opens a connection to one host, with clientChecks where the host takes them. db_url may have
// values of its own.
func (p *Pool) connectHost(ctx context.Context, cfg *pgx.ConnConfig) (*pooledConn, error) {
	host := net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
	if _, unchecked := p.unchecked.Load(host); unchecked {
		return p.openHost(ctx, cfg)
	}
	checked := cfg.Copy()
	for name, value := range clientChecks {
		if _, given := cfg.RuntimeParams[name]; !given {
			checked.RuntimeParams[name] = value
		}
	}
	conn, err := p.openHost(ctx, checked)
	if err == nil || !refusesChecks(err) {
		return conn, err
	}
	if conn, err = p.openHost(ctx, cfg); err == nil {
		p.unchecked.Store(host, nil)
	}
	return conn, err
}

// refusesChecks reports whether a server or a pooler may have refused a client for clientChecks. A pooler
// needn't name one of them.
func refusesChecks(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return false
	}
	for name := range clientChecks {
		if strings.Contains(refused.Message, name) {
			return true
		}
	}
	return refused.Code == "08P01" || refused.Code == "0A000"
}

// openHost opens a connection to one host. A query whose context ends is cancelled on the server, and the
// connection lives on.
func (p *Pool) openHost(ctx context.Context, cfg *pgx.ConnConfig) (*pooledConn, error) {
	pooled := &pooledConn{guard: new(pgGuard), resetAlways: p.cfg.ResetAlways, asked: time.Since(start), closed: func() {}}
	cfg.Tracer = pooled.guard
	var dialed atomic.Bool // what is dialed from then on cancels queries
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil || dialed.Load() {
			return conn, err
		}
		awaited := &awaitedConn{Conn: conn, closed: make(chan struct{}), peeker: newPeeker(conn)}
		awaited.patience.Store(int64(serverPatience))
		return awaited, nil
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		pooled.session = &session{r: r, w: w} // one for each address that is tried
		pooled.guard.session = pooled.session
		return pgproto3.NewFrontend(pooled.session, pooled.session)
	}
	fatal := cfg.OnPgError
	cfg.OnPgError = func(c *pgconn.PgConn, err *pgconn.PgError) bool {
		pooled.session.noteError(err)
		return fatal(c, err)
	}
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &canceller{conn: c, of: pooled}
	}
	conn, err := stdlib.GetConnector(*cfg).Connect(ctx)
	if err != nil {
		return nil, err
	}
	dialed.Store(true)
	pooled.Conn = conn.(*stdlib.Conn)
	raw := pooled.Conn.Conn().PgConn().Conn()
	if secured, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secured.NetConn()
	}
	pooled.socket = raw.(*awaitedConn)
	return pooled, nil
}

// closePG ends a connection and returns once the server has. A server notices the end of one on which a query
// runs once that is done, so it is told to cancel it.
func closePG(ctx context.Context, conn *pooledConn) error {
	defer conn.closed()
	if conn.standing.Outdated() {
		conn.socket.patience.Store(int64(pghosts.Patience))
	}
	if conn.abandoned.Load() {
		ctx, cancel := context.WithTimeout(ctx, conn.patience())
		defer cancel()
		cancelled := make(chan struct{})
		go func() {
			defer close(cancelled)
			_ = conn.Conn.Conn().PgConn().CancelRequest(ctx) // reads what never changes
		}()
		_ = conn.socket.Close()
		<-cancelled
	} else {
		_ = conn.Conn.Conn().Close(ctx) // its error says what the wait below finds out
	}
	select {
	case <-conn.socket.closed:
		return errors.Join(conn.socket.unconfirmed, conn.standing.Alone(ctx))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patience is how long the server may take to answer. One that another server has taken over from may hang,
// and holds places up.
func (c *pooledConn) patience() time.Duration {
	if c.standing.Outdated() {
		return pghosts.Patience
	}
	return serverPatience
}

// awaitedConn is a socket whose Close waits until the other side has closed too: a server that hasn't noticed
// the end yet still counts the connection against its limit.
type awaitedConn struct {
	net.Conn
	peeker      *peeker
	once        sync.Once
	closed      chan struct{}
	unconfirmed error        // set before closed closes
	patience    atomic.Int64 // of Close, in nanoseconds

	mu     sync.Mutex // held while a deadline is set
	ending atomic.Bool
}

// Read implements net.Conn. Whoever still reads when the connection is closed must not take what is left for
// what comes next, since Close reads too.
func (c *awaitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.ending.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

// SetDeadline implements net.Conn.
func (c *awaitedConn) SetDeadline(t time.Time) error { return c.setDeadline(c.Conn.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *awaitedConn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetReadDeadline, t)
}

// SetWriteDeadline implements net.Conn.
func (c *awaitedConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetWriteDeadline, t)
}

// setDeadline sets a deadline, unless that of Close is set.
func (c *awaitedConn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending.Load() {
		return net.ErrClosed
	}
	return set(t)
}

// Close implements net.Conn.
func (c *awaitedConn) Close() error {
	var err error
	c.once.Do(func() {
		defer close(c.closed)
		c.mu.Lock()
		c.ending.Store(true)
		_ = c.Conn.SetDeadline(time.Now().Add(time.Duration(c.patience.Load())))
		c.mu.Unlock()
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		c.unconfirmed = awaitEnd(c.Conn)
		err = c.Conn.Close()
	})
	return err
}

// awaitEnd reads what the other side still sends until it ends.
func awaitEnd(conn net.Conn) error {
	var scrap [512]byte
	for {
		switch _, err := conn.Read(scrap[:]); {
		case err == nil:
		case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
			return errors.New("the server did not close its side")
		default: // end of file, or a reset: gone either way
			return nil
		}
	}
}

// newPGTenant prepares a tenant's database.
func newPGTenant(t *tenantDB, url hostdb.Secret, schema int64) (engine, error) {
	p := &PGX{tenant: t, schema: schema}
	var err error
	if p.lease, err = t.pool.pg.Lease(t.id, url); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *PGX) writer() lender { return p }
func (p *PGX) reader() lender { return nil }
func (p *PGX) close()         { p.lease.Release() }

func (p *PGX) native(to use) *PGX {
	if to == forRequests {
		return p
	}
	return &PGX{tenant: p.tenant}
}

// start is when the process began, for clock readings that need no wall time.
var start = time.Now()

// socketState is what there is to read from an idle connection's socket.
type socketState uint8

const (
	socketSilent socketState = iota // nothing, as it should be
	socketSpeaks                    // something: a notice, a changed parameter, or the server's last words
	socketEnded                     // its end
)

const (
	// peekAfter is how long after its last use a connection's socket is looked at before it serves again. A
	// look takes half a microsecond, a system call, of a query's sixty. Without it whoever gets a connection
	// that the server has ended meanwhile (a restart, a failover, pg_terminate_backend) pays with a refusal,
	// since a query that was sent can't safely be sent again. Connections that go from hand to hand faster
	// than this don't pay for the look: those that end then end under queries.
	peekAfter = time.Millisecond
	// askAfter is how long after its last use the server is asked, in a round trip, for the sake of ends that
	// no packet tells of.
	askAfter = time.Second
)

// ready reports whether the connection is of use, as far as it knows itself.
func (c *pooledConn) ready() bool {
	pg := c.Conn.Conn().PgConn()
	return !pg.IsClosed() && pg.TxStatus() == 'I' && !c.standing.Outdated()
}

// answers reports whether the server is still there, as far as that is known; where it has to be asked,
// within some patience. now is the time since start; its next user waits until a time at most.
func (c *pooledConn) answers(now time.Duration, until time.Time, patience time.Duration) bool {
	if !c.ready() {
		return false
	}
	if unused := now - c.asked; unused > peekAfter {
		seen := c.socket.peeker.peek()
		if seen == socketEnded || (seen == socketSpeaks || unused > askAfter) && !c.answersNow(until, patience) {
			return false
		}
	}
	c.asked = now
	return true
}

// answersNow asks the server. The socket's own deadline bounds it, since a context's end would have the
// question cancelled, by another connection that may hang as well.
func (c *pooledConn) answersNow(until time.Time, patience time.Duration) bool {
	if sooner := time.Now().Add(patience); sooner.Before(until) {
		until = sooner
	}
	_ = c.socket.SetDeadline(until)
	if c.Conn.Conn().PgConn().Ping(context.Background()) != nil {
		c.abandoned.Store(true) // pgx may be closing it in the background
		return false
	}
	return c.socket.SetDeadline(time.Time{}) == nil
}

// pgLoan is the loan of a connection from the pool's budget.
type pgLoan struct {
	loan
	conn pgConn
}

// acquire takes a connection that answers out of the pool, on behalf of the context's scope.
func (p *PGX) acquire(ctx context.Context, to use) (*pgLoan, error) {
	of, err := p.tenant.borrower(ctx, to)
	if err != nil {
		return nil, err
	}
	var owner *keyedpool.Owner
	if of != nil {
		owner = &of.owner
	}
	conn, err := p.lease.Acquire(ctx, owner)
	if err != nil {
		return nil, explainPG(err)
	}
	now := time.Since(start)
	if c := conn.Value(); now-c.asked <= peekAfter && c.ready() { // as between queries of a busy tenant
		c.asked = now
	} else if conn, err = p.alive(ctx, owner, conn, now); err != nil {
		return nil, err
	}
	l := &pgLoan{conn: conn}
	l.loan.conn = l
	if !p.tenant.lend(&l.loan, of, to) {
		conn.Release(keyedpool.Healthy)
		return nil, because(ErrTenantUnavailable, errScopeOver)
	}
	conn.Value().guard.loan, conn.Value().guard.limit = &l.loan, p.tenant.pool.cfg.QueryTimeout
	if to == forSessions {
		conn.Value().guard.limit = 0
	}
	return l, nil
}

// alive returns a connection if it answers, else another one: a dead one makes way for the next.
// AcquireTimeout bounds all of it, the wait for the first included.
func (p *PGX) alive(ctx context.Context, owner *keyedpool.Owner, conn pgConn, now time.Duration) (pgConn, error) {
	until := start.Add(now - conn.Waited() + p.tenant.pool.cfg.AcquireTimeout)
	if sooner, ok := ctx.Deadline(); ok && sooner.Before(until) {
		until = sooner
	}
	patience := serverPatience
	if conn.Value().standing.Several() { // leave the time to reach another
		patience = pghosts.Patience
	}
	if conn.Value().answers(now, until, patience) {
		return conn, nil
	}
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		conn.Release(keyedpool.Destroy)
		if ctx.Err() != nil {
			return conn, ctx.Err()
		}
		next, err := p.lease.Acquire(bounded, owner)
		if err != nil {
			return next, explainPG(err)
		}
		// Where a network has forgotten one, it has forgotten those that were used before it.
		if next.Value().answers(time.Since(start), until, serverPatience/20) {
			return next, nil
		}
		conn = next
	}
}

// giveBack ends the loan. A connection that is broken, busy, in a transaction, or that can't be reset isn't
// used again. Further calls do nothing.
func (l *pgLoan) giveBack() {
	if !l.loan.giveBack() {
		return
	}
	verdict := keyedpool.Destroy
	switch c := l.conn.Value(); {
	case c.session.outdated:
		verdict = keyedpool.Outdated
	case c.clean():
		verdict = keyedpool.Healthy
	}
	l.conn.Release(verdict)
}

// seize implements lent: the connection closes, whatever it does.
func (l *pgLoan) seize() {
	l.conn.Value().abandoned.Store(true)
	l.conn.Release(keyedpool.Destroy)
}

// explainPG turns the pool's reasons into this package's.
func explainPG(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, keyedpool.ErrBusy), errors.Is(err, keyedpool.ErrNested):
		return because(ErrBusy, err)
	}
	return because(ErrTenantUnavailable, err)
}
