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
	maxAdmins  = 4               // connections on which databases are created and dropped
	adminIdle  = 5 * time.Second // how long they stay open unused
	adminFresh = time.Second     // how long they are believed to answer
)

// admins are a few connections to a server's own database, kept for a moment: connecting costs as much as
// half a database.
type admins struct {
	config *pgx.ConnConfig
	hosts  *pghosts.Hosts
	places chan struct{} // a token for each connection in use

	mu    sync.Mutex // guards what follows
	idle  []idleAdmin
	timer *time.Timer
}

// idleAdmin is a connection that nobody uses.
type idleAdmin struct {
	*pgx.Conn
	since time.Time
}

func newAdmins(config *pgx.ConnConfig) *admins {
	return &admins{config: config, hosts: pghosts.New(), places: make(chan struct{}, maxAdmins)}
}

// use runs do on a connection.
func (a *admins) use(ctx context.Context, do func(*pgx.Conn) error) error {
	select {
	case a.places <- struct{}{}:
		defer func() { <-a.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	conn, err := a.take(ctx)
	if err != nil {
		return err
	}
	defer a.give(conn)
	return do(conn)
}

// take returns an idle connection that answers, or a new one.
func (a *admins) take(ctx context.Context) (*pgx.Conn, error) {
	for {
		a.mu.Lock()
		var last idleAdmin
		if n := len(a.idle); n > 0 {
			last, a.idle = a.idle[n-1], a.idle[:n-1]
		}
		a.mu.Unlock()
		if last.Conn == nil {
			break
		}
		if last.answers(ctx) {
			return last.Conn, nil
		}
		closeAdmin(last.Conn)
	}
	return a.connect(ctx)
}

// answers reports whether a connection is to the server that serves, and answers.
func (a idleAdmin) answers(ctx context.Context) bool {
	if pghosts.StandingOf(a.Conn).Outdated() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return time.Since(a.since) < adminFresh || a.Ping(ctx) == nil
}

// connect opens a connection.
func (a *admins) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := a.hosts.Open(ctx, a.config)
	if err != nil {
		return nil, fmt.Errorf("the server of Config.Server can't be reached: %w", err)
	}
	return conn, nil
}

// give keeps a connection for the next.
func (a *admins) give(conn *pgx.Conn) {
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

// closeIdle closes the connections that nobody uses.
func (a *admins) closeIdle() {
	a.mu.Lock()
	idle := a.idle
	a.idle = nil
	a.mu.Unlock()
	for _, of := range idle {
		closeAdmin(of.Conn)
	}
}

func closeAdmin(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
