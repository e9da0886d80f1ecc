package pgdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// dial opens a connection for a tenant.
func (p *Pool) dial(ctx context.Context, tenantID string, url hostdb.Secret) (*pooledConn, error) {
	address, err := parse(url)
	if err != nil {
		return nil, err
	}
	cfg, err := p.configure(ctx, tenantID, address)
	if err != nil {
		return nil, err
	}
	role := address.Server() + " " + cfg.User
	p.roles.add(role, tenantID, 1)
	conn, err := p.open(ctx, tenantID, address, cfg)
	if err == nil {
		conn.onClose = func() { p.roles.add(role, tenantID, -1) }
		return conn, nil
	}
	defer p.roles.add(role, tenantID, -1)
	if p.cfg.PasswordRefused != nil && sqlstate.Of(err) == sqlstate.InvalidPassword {
		p.cfg.PasswordRefused(ctx, tenantID)
	}
	return nil, p.roles.markOwnLimit(err, role, tenantID)
}

// parse reads a tenant's address.
func parse(url hostdb.Secret) (*dburl.URL, error) {
	address, err := dburl.Parse(url.Reveal())
	if err != nil {
		return nil, fmt.Errorf("db_url: %w", err)
	}
	return address, nil
}

// server returns the name of the server in a tenant's address.
func server(url hostdb.Secret) (string, error) {
	address, err := parse(url)
	if err != nil {
		return "", err
	}
	return address.Server(), nil
}

// open opens a connection, finds out whether a pooler stands before the server, and has the connection set
// up.
func (p *Pool) open(
	ctx context.Context, tenantID string, address *dburl.URL, cfg *pgx.ConnConfig,
) (*pooledConn, error) {
	unnamed := address.Unnamed()
	if mode := cfg.DefaultQueryExecMode; mode != address.Config().DefaultQueryExecMode {
		unnamed = mode // the hook asks for it
	}
	conn, err := p.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if !p.cfg.SessionPooler {
		if err := conn.detectPooler(ctx, unnamed); err != nil {
			_ = closeConn(ctx, conn)
			return nil, err
		}
	}
	if p.cfg.AfterConnect == nil {
		return conn, nil
	}
	if err := p.setUp(ctx, conn, tenantID); err != nil {
		closing, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		_ = closeConn(closing, conn) // the connection's place is free only then
		return nil, err
	}
	conn.session.mustClose, conn.session.hooked = false, true
	conn.setUp = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), p.cfg.ConnectTimeout)
		defer cancel()
		return p.setUp(ctx, conn, tenantID)
	}
	return conn, nil
}

// connect opens a connection to the host that serves. Where there are several hosts there may be a socket to
// each for a moment, and never two to one. The connection's close waits for the end of all of them, so that
// no host sees more sockets than the budget allows.
func (p *Pool) connect(ctx context.Context, cfg *pgx.ConnConfig) (*pooledConn, error) {
	if !pghosts.Several(cfg) {
		return p.connectHost(ctx, cfg)
	}
	conn, standing, err := pghosts.Connect(ctx, p.hosts, cfg, p.connectHost, func(slower *pooledConn) {
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		_ = closeConn(ctx, slower)
	})
	if err != nil {
		return nil, err
	}
	conn.standing = standing
	return conn, nil
}

// clientChecks are the settings by which a server notices that its client has gone, and frees the connection.
// Without them a process that was killed keeps its connections until its queries end. One behind a network
// that drops packets keeps them until the server's system asks, which Linux does after two hours.
//
// A pooler such as PgBouncer refuses clients with settings like these. So does a server that doesn't know one
// of them: those before PostgreSQL 14 don't look for the client while a query runs.
var clientChecks = map[string]string{
	"client_connection_check_interval": "2s",
	"tcp_keepalives_idle":              "10",
	"tcp_keepalives_interval":          "3",
	"tcp_keepalives_count":             "3",
	"tcp_user_timeout":                 "15s",
}

// connectHost opens a connection to one host, with clientChecks where the host accepts them. The address may
// have values of its own.
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

// refusesChecks reports whether a server or a pooler may have refused a client because of clientChecks. A
// pooler needn't name one of them.
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
	return refused.Code == sqlstate.ProtocolViolation || refused.Code == sqlstate.FeatureNotSupported
}

// openHost opens a connection to one host.
func (p *Pool) openHost(ctx context.Context, cfg *pgx.ConnConfig) (*pooledConn, error) {
	conn := &pooledConn{
		guard:       new(guard),
		resetAlways: p.cfg.ResetAlways,
		answered:    time.Since(start),
		onClose:     func() {},
	}
	opened := conn.install(cfg)
	std, err := stdlib.GetConnector(*cfg).Connect(ctx)
	if err != nil {
		return nil, err
	}
	opened.Store(true)
	conn.std = std.(*stdlib.Conn)
	raw := conn.pg().Conn()
	if secured, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secured.NetConn()
	}
	conn.socket = raw.(*awaitedConn)
	return conn, nil
}

// install has pgx open a connection by way of its socket, its session and its guard. A query whose context
// ends is cancelled on the server, and the connection lives on. The caller says when the connection is open:
// sockets that are opened from then on carry requests to cancel queries.
func (c *pooledConn) install(cfg *pgx.ConnConfig) (opened *atomic.Bool) {
	opened = new(atomic.Bool)
	c.guard.trace(cfg.Tracer)
	cfg.Tracer = c.guard
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		socket, err := dial(ctx, network, addr)
		if err != nil || opened.Load() {
			return socket, err
		}
		return newAwaitedConn(socket), nil
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		c.session = &session{r: r, w: w} // one for each address that is tried
		c.guard.session = c.session
		return pgproto3.NewFrontend(c.session, c.session)
	}
	isFatal := cfg.OnPgError
	cfg.OnPgError = func(pg *pgconn.PgConn, err *pgconn.PgError) bool {
		c.session.noteError(err)
		return isFatal(pg, err)
	}
	cfg.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler {
		return &canceller{pg: pg, conn: c}
	}
	return opened
}

// closeConn ends a connection, and returns once the server has ended it too. A server that runs a query
// notices the end only after it, so it is told to cancel the query.
func closeConn(ctx context.Context, c *pooledConn) error {
	defer c.onClose()
	if c.standing.Outdated() {
		c.socket.closeTimeout.Store(int64(pghosts.Patience))
	}
	if c.abandoned.Load() {
		ctx, cancel := context.WithTimeout(ctx, c.timeout())
		defer cancel()
		cancelled := make(chan struct{})
		go func() {
			defer close(cancelled)
			_ = c.pg().CancelRequest(ctx) // reads what never changes
		}()
		_ = c.socket.Close()
		<-cancelled
	} else {
		_ = c.std.Conn().Close(ctx) // its error says what the wait below finds out
	}
	select {
	case <-c.socket.closed:
		return errors.Join(c.socket.unconfirmed, c.standing.Alone(ctx))
	case <-ctx.Done():
		return ctx.Err()
	}
}
