package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

const (
	maxAdmins  = 4               // connections for creating and dropping databases
	adminIdle  = 5 * time.Second // how long an unused connection stays open
	adminFresh = time.Second     // how long an unused connection is used again without a ping
)

// adminPool is a small pool of connections to a server's own database. It keeps connections for a moment,
// since connecting takes half as long as creating a database.
type adminPool struct {
	config *pgx.ConnConfig
	hosts  *pghosts.Hosts
	slots  chan struct{} // holds an element for each connection in use

	mu    sync.Mutex // guards what follows
	idle  []idleAdmin
	timer *time.Timer
}

// idleAdmin is an unused connection.
type idleAdmin struct {
	*pgx.Conn
	since time.Time
}

func newAdminPool(config *pgx.ConnConfig) *adminPool {
	return &adminPool{config: config, hosts: pghosts.New(), slots: make(chan struct{}, maxAdmins)}
}

// use calls do with a connection.
func (a *adminPool) use(ctx context.Context, do func(*pgx.Conn) error) error {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	conn, err := a.acquire(ctx)
	if err != nil {
		return err
	}
	defer a.release(conn)
	return do(conn)
}

// acquire returns an idle connection that answers, or a new one.
func (a *adminPool) acquire(ctx context.Context) (*pgx.Conn, error) {
	for {
		a.mu.Lock()
		var last idleAdmin
		if n := len(a.idle); n > 0 {
			last, a.idle = a.idle[n-1], a.idle[:n-1]
		}
		a.mu.Unlock()
		if last.Conn == nil {
			return a.connect(ctx)
		}
		if last.answers(ctx) {
			return last.Conn, nil
		}
		closeAdmin(last.Conn)
	}
}

// answers reports whether a connection leads to the host that currently serves, and works.
func (a idleAdmin) answers(ctx context.Context) bool {
	if pghosts.StandingOf(a.Conn).Outdated() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return time.Since(a.since) < adminFresh || a.Ping(ctx) == nil
}

// connect opens a connection.
func (a *adminPool) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := a.hosts.Open(ctx, a.config)
	if err != nil {
		return nil, fmt.Errorf("the server of Config.Server can't be reached: %w", err)
	}
	return conn, nil
}

// release keeps a connection for the next use.
func (a *adminPool) release(conn *pgx.Conn) {
	if conn.IsClosed() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.idle = append(a.idle, idleAdmin{conn, time.Now()})
	if a.timer == nil {
		a.timer = time.AfterFunc(adminIdle, a.closeIdle)
	}
	a.timer.Reset(adminIdle)
}

// closeIdle closes the unused connections.
func (a *adminPool) closeIdle() {
	a.mu.Lock()
	idle := a.idle
	a.idle = nil
	a.mu.Unlock()
	for _, admin := range idle {
		closeAdmin(admin.Conn)
	}
}

func closeAdmin(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
