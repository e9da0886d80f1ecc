package tenantdb_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestAPeekSeesWordsAndTheEndAndTakesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("sockets aren't looked at there")
	}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		t.Run(network, func(t *testing.T) {
			listener, err := net.Listen(network, address)
			must(t, err)
			defer listener.Close()
			conn, err := net.Dial(network, listener.Addr().String())
			must(t, err)
			defer conn.Close()
			far, err := listener.Accept()
			must(t, err)
			if got := tenantdb.Peek(conn); got != "silent" {
				t.Errorf("at first: %s", got)
			}
			reading, read, looked := make(chan struct{}), make(chan error), make(chan string)
			go func() { // as pgx does after a slow write
				close(reading)
				_, err := conn.Read(make([]byte, 1))
				read <- err
			}()
			<-reading
			go func() {
				seen := "silent"
				for i := 0; i < 10_000 && seen == "silent"; i++ {
					seen = tenantdb.Peek(conn)
				}
				looked <- seen
			}()
			select {
			case seen := <-looked:
				if seen != "silent" {
					t.Errorf("beside a reader: %s", seen)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("a peek waits for the reader")
			}
			_, err = far.Write([]byte("y"))
			must(t, err)
			must(t, <-read)
			_, err = far.Write([]byte("x"))
			must(t, err)
			eventually(t, func() bool { return tenantdb.Peek(conn) == "speaks" })
			must(t, far.Close())
			if got := tenantdb.Peek(conn); got != "speaks" {
				t.Errorf("with words before the end: %s", got)
			}
			word := make([]byte, 2)
			if n, err := conn.Read(word); n != 1 || err != nil {
				t.Errorf("what was seen is gone: %d, %v", n, err)
			}
			eventually(t, func() bool { return tenantdb.Peek(conn) == "ended" })
			must(t, conn.Close())
			if got := tenantdb.Peek(conn); got == "silent" {
				t.Errorf("closed on this side: %s", got)
			}
		})
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if got := tenantdb.Peek(near); got != "silent" {
		t.Errorf("what is no socket: %s", got)
	}
}

// idle gives the tenant of a context a number of idle connections.
func idle(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	var held []*tenantdb.Conn
	for range n {
		c, err := tenantdb.PG(ctx).Acquire(ctx)
		must(t, err)
		held = append(held, c)
	}
	for _, c := range held {
		c.Release()
	}
}

func TestIdleConnectionsThatTheServerEndsCostNobodyAnError(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	h := mw.Handler(http.HandlerFunc(whoami))
	admin, err := pgx.Connect(t.Context(), pgtest.Shared(t).URL("postgres"))
	must(t, err)
	defer admin.Close(context.Background())
	database := ask[string](t, ctx, "SELECT current_database()")
	for range 20 {
		idle(t, ctx, 3)
		released := time.Now()
		var ended int
		must(t, admin.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = $1 AND backend_type = 'client backend'`, database).Scan(&ended))
		if ended != 3 {
			t.Fatalf("%d connections were ended: it proves nothing", ended)
		}
		eventually(t, func() bool {
			var left int
			must(t, admin.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database).Scan(&left))
			return left == 0 && time.Since(released) > 2*time.Millisecond // connections used just now aren't looked at
		})
		answers := make(chan string, 4)
		together(4, func(i int) {
			if i%2 == 0 {
				answers <- do(h, request("ann", "acme")).Body.String()
				return
			}
			var name string
			if err := tenantdb.PG(ctx).QueryRow(ctx, "SELECT name FROM me").Scan(&name); err != nil {
				name = fmt.Sprint(err)
			}
			answers <- name
		})
		for range 4 {
			if got := <-answers; got != "acme" {
				t.Fatalf("answered %q", got)
			}
		}
	}
}

func TestAServersRestartCostsNoRequestThatComesAfterIt(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	s := pgtest.Start(t)
	w.moveTo(acme, s, "")
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	h := mw.Handler(http.HandlerFunc(whoami))
	for range 3 {
		idle(t, ctx, 5)
		s.Kill()
		must(t, s.Start())
		for range 10 {
			if rec := do(h, request("ann", "acme")); rec.Body.String() != "acme" {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
		}
	}
}
