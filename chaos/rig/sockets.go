package rig

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// sockets counts the product's connections to a server ten times a second, as the server reports them.
type sockets struct {
	server *Server
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards counts
	counts []count
}

type count struct {
	at time.Time
	n  int
}

func watchSockets(s *Server) *sockets {
	ctx, stop := context.WithCancel(context.Background())
	k := &sockets{server: s, stop: stop}
	k.done.Go(func() {
		var conn *pgx.Conn
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				conn = k.look(ctx, conn)
			case <-ctx.Done():
				if conn != nil {
					_ = conn.Close(context.Background())
				}
				return
			}
		}
	})
	return k
}

// look counts once. It returns the connection for the next count.
func (k *sockets) look(ctx context.Context, conn *pgx.Conn) *pgx.Conn {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if conn == nil {
		c, err := pgx.Connect(ctx, k.server.URL("postgres"))
		if err != nil {
			return nil
		}
		conn = c
	}
	c := count{at: time.Now()}
	err := conn.QueryRow(ctx,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = $1",
		ProductRole).Scan(&c.n)
	if err != nil {
		_ = conn.Close(ctx)
		return nil
	}
	k.mu.Lock()
	k.counts = append(k.counts, c)
	k.mu.Unlock()
	return conn
}

// take returns the counts since the last call.
func (k *sockets) take() []count {
	k.mu.Lock()
	defer k.mu.Unlock()
	counts := k.counts
	k.counts = nil
	return counts
}

func (k *sockets) close() {
	k.stop()
	k.done.Wait()
}

// Sockets returns how many connections the product has at the servers right now.
func (w *World) Sockets() (n int) {
	for _, k := range w.sockets {
		k.mu.Lock()
		if len(k.counts) > 0 {
			n += k.counts[len(k.counts)-1].n
		}
		k.mu.Unlock()
	}
	return n
}

// Occupy takes all connections that a server has left, as another program would. The returned function gives
// them back.
func Occupy(s *Server, most int) (n int, free func()) {
	var conns []*pgx.Conn
	for len(conns) < most {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		conn, err := pgx.Connect(ctx, s.As(OutsiderRole, OutsiderPassword, "postgres"))
		cancel()
		if err != nil {
			break
		}
		conns = append(conns, conn)
	}
	return len(conns), func() {
		for _, conn := range conns {
			_ = conn.Close(context.Background())
		}
	}
}
