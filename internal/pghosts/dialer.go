package pghosts

import (
	"context"
	"database/sql/driver"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Dialer is a driver.Connector that opens connections independently of its callers' contexts. The end of a
// caller's context ends only its wait, and the next caller gets the connection. A connection that nobody
// asks for is closed.
type Dialer struct {
	hosts   *Hosts
	cfg     *pgx.ConnConfig
	several bool
	ctx     context.Context // ends at Stop
	cancel  context.CancelFunc
	opened  chan opening
	running sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	ended   bool
	dials   int // in progress or not handed out yet; at least as many as callers
	callers int // how many are waiting
}

// spareTime is how long a connection without a caller waits for the next one.
const spareTime = 5 * time.Second

// opening is the result of a dial.
type opening struct {
	conn *stdlib.Conn
	err  error
}

// NewDialer returns a Dialer. The config must not be changed afterwards.
func NewDialer(hosts *Hosts, cfg *pgx.ConnConfig) *Dialer {
	cfg = bounded(cfg)
	d := &Dialer{hosts: hosts, cfg: cfg, several: Several(cfg), opened: make(chan opening)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// connectTimeout limits opening a connection if the config doesn't.
const connectTimeout = 5 * time.Second

// bounded returns a config with a ConnectTimeout.
func bounded(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	if cfg.ConnectTimeout == 0 {
		cfg = cfg.Copy()
		cfg.ConnectTimeout = connectTimeout
	}
	return cfg
}

// Open opens a connection to the host that serves, without a Dialer.
func (h *Hosts) Open(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, at, err := Connect(ctx, h, bounded(cfg), pgx.ConnectConfig, closeLate)
	if err != nil {
		return nil, err
	}
	conn.PgConn().CustomData()[standing] = at
	return conn, nil
}

// closeLate closes a connection that came too late.
func closeLate(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	_ = conn.Close(ctx)
}

// Driver implements driver.Connector.
func (d *Dialer) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Connect implements driver.Connector.
func (d *Dialer) Connect(ctx context.Context) (driver.Conn, error) {
	if !d.enter() {
		return nil, net.ErrClosed
	}
	select {
	case o := <-d.opened:
		d.leave(true)
		if o.err != nil {
			return nil, o.err
		}
		return o.conn, nil
	case <-ctx.Done():
		d.leave(false)
		return nil, ctx.Err()
	case <-d.ctx.Done():
		d.leave(false)
		return nil, net.ErrClosed
	}
}

// Stop ends the dials in progress and waits for them. Connections that were handed out belong to their
// callers.
func (d *Dialer) Stop() {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.cancel()
	d.running.Wait()
}

// enter counts a caller in, and dials unless a spare connection is on its way. It returns false after Stop.
func (d *Dialer) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return false
	}
	d.callers++
	if d.dials < d.callers {
		d.dials++
		d.running.Go(d.dial)
	}
	return true
}

// leave counts a caller out, and its dial if it was served.
func (d *Dialer) leave(served bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.callers--
	if served {
		d.dials--
	}
}

// dropSpare counts a dial out if there is no caller for it.
func (d *Dialer) dropSpare() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dials <= d.callers {
		return false
	}
	d.dials--
	return true
}

// dial opens a connection and hands it out. It drops a failure that nobody waits for.
func (d *Dialer) dial() {
	var o opening
	o.conn, o.err = d.open(d.ctx)
	if o.err != nil && d.dropSpare() {
		return
	}
	spare := time.NewTicker(spareTime)
	defer spare.Stop()
	for {
		select {
		case d.opened <- o:
			return
		case <-spare.C:
			if !d.dropSpare() {
				continue
			}
		case <-d.ctx.Done():
		}
		if o.err == nil {
			_ = o.conn.Close()
		}
		return
	}
}

const standing = "github.com/tenantdb/tenantdb/internal/pghosts" // the key in a connection's custom data

// open opens a connection.
func (d *Dialer) open(ctx context.Context) (*stdlib.Conn, error) {
	conn, at, err := Connect(ctx, d.hosts, d.cfg,
		func(ctx context.Context, cfg *pgx.ConnConfig) (*stdlib.Conn, error) {
			connector := stdlib.GetConnector(*cfg, stdlib.OptionShouldPing(d.shouldPing),
				stdlib.OptionResetSession(refuseOutdated))
			opened, err := connector.Connect(ctx)
			if err != nil {
				return nil, err
			}
			return opened.(*stdlib.Conn), nil
		}, func(late *stdlib.Conn) { _ = late.Close() })
	if err != nil {
		return nil, err
	}
	conn.Conn().PgConn().CustomData()[standing] = at
	return conn, nil
}

// StandingOf returns the standing of a connection that a Dialer or [Hosts.Open] opened.
func StandingOf(conn *pgx.Conn) Standing {
	at, _ := conn.PgConn().CustomData()[standing].(Standing)
	return at
}

// shouldPing reports whether to ping a connection that was idle for long. If there are other hosts, it pings
// by itself with a shorter timeout, so that a server that hangs leaves the caller time to try those.
func (d *Dialer) shouldPing(ctx context.Context, params stdlib.ShouldPingParams) bool {
	if StandingOf(params.Conn).Outdated() || params.IdleDuration <= time.Second {
		return false
	}
	if !d.several {
		return true
	}
	bounded, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	// The end of the context closes the connection.
	if params.Conn.Ping(bounded) != nil && ctx.Err() == nil && bounded.Err() != nil {
		StandingOf(params.Conn).Silent()
	}
	return false
}

// refuseOutdated makes database/sql replace a connection to a server that no longer serves.
func refuseOutdated(_ context.Context, conn *pgx.Conn) error {
	if conn.IsClosed() || StandingOf(conn).Outdated() {
		return driver.ErrBadConn
	}
	return nil
}
