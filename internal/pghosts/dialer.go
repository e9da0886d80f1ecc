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

// Dialer is a driver.Connector whose connections take as long to open as they do, however short-lived the
// callers are: a caller's end ends its own wait, and the next caller gets what was being opened. What nobody
// asks for is closed.
type Dialer struct {
	hosts   *Hosts
	cfg     *pgx.ConnConfig
	several bool
	ctx     context.Context // ends with Stop
	cancel  context.CancelFunc
	opened  chan opening
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	ended   bool
	dials   int // how many are under way or have not been handed out; as many as there are callers, at least
	callers int // how many wait
}

// spareTime is how long a connection waits for its next caller when the one that it was opened for has gone.
const spareTime = 5 * time.Second

// opening is what came of a dial.
type opening struct {
	conn *stdlib.Conn
	err  error
}

// NewDialer returns a Dialer. The config must not change afterwards.
func NewDialer(hosts *Hosts, cfg *pgx.ConnConfig) *Dialer {
	cfg = bounded(cfg)
	d := &Dialer{hosts: hosts, cfg: cfg, several: Several(cfg), opened: make(chan opening)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// connectTimeout bounds the making of a connection where the config doesn't.
const connectTimeout = 5 * time.Second

// bounded returns a config with a ConnectTimeout.
func bounded(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	if cfg.ConnectTimeout == 0 {
		cfg = cfg.Copy()
		cfg.ConnectTimeout = connectTimeout
	}
	return cfg
}

// Open opens a connection that no Dialer opens, to the host that serves.
func (h *Hosts) Open(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, at, err := Connect(ctx, h, bounded(cfg), pgx.ConnectConfig, closeLate)
	if err != nil {
		return nil, err
	}
	conn.PgConn().CustomData()[standing] = at
	return conn, nil
}

// closeLate closes a connection that another one has outrun.
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

// Stop ends what is being opened and waits for its end. Connections that were handed out are their callers'.
func (d *Dialer) Stop() {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.cancel()
	d.running.Wait()
}

// enter counts a caller, and dials where nothing is left over from one who has gone.
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

// leave counts a caller out, and the dial that it got.
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

// dial opens a connection and hands it out. A failure that nobody waits for is forgotten at once.
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

// StandingOf returns the standing of a connection that a Dialer or Open opened.
func StandingOf(conn *pgx.Conn) Standing {
	at, _ := conn.PgConn().CustomData()[standing].(Standing)
	return at
}

// shouldPing has a server asked whether it answers on a connection that was idle for long. Where there are
// other hosts it asks itself, since a server that hangs must leave the caller the time to try those.
func (d *Dialer) shouldPing(ctx context.Context, params stdlib.ShouldPingParams) bool {
	if StandingOf(params.Conn).Outdated() || params.IdleDuration <= time.Second {
		return false
	}
	if !d.several {
		return true
	}
	bounded, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	// the end of the context closes the connection
	if params.Conn.Ping(bounded) != nil && ctx.Err() == nil && bounded.Err() != nil {
		StandingOf(params.Conn).Silent()
	}
	return false
}

// refuseOutdated has a connection to a server that no longer serves replaced.
func refuseOutdated(_ context.Context, conn *pgx.Conn) error {
	if conn.IsClosed() || StandingOf(conn).Outdated() {
		return driver.ErrBadConn
	}
	return nil
}
