package hostdb_test

import (
	"database/sql"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// slowNetwork forwards connections to a server. While it holds, it accepts new ones and sends them nothing.
type slowNetwork struct {
	listener net.Listener
	held     chan struct{} // receives a token for each connection that is held

	mu     sync.Mutex
	opened int
	gate   chan struct{} // closed unless it holds
}

func newSlowNetwork(t *testing.T, target string) *slowNetwork {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	n := &slowNetwork{listener: listener, held: make(chan struct{}, 100), gate: make(chan struct{})}
	close(n.gate)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go n.serve(in, target)
		}
	}()
	return n
}

func (n *slowNetwork) serve(in net.Conn, target string) {
	defer in.Close()
	n.mu.Lock()
	n.opened++
	gate := n.gate
	n.mu.Unlock()
	select {
	case <-gate:
	default:
		n.held <- struct{}{}
		<-gate
	}
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(in, out)
}

func (n *slowNetwork) address() string { return n.listener.Addr().String() }

// hold holds connections that arrive from now on.
func (n *slowNetwork) hold() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = make(chan struct{})
}

// awaitHeld waits until a connection is held.
func (n *slowNetwork) awaitHeld() { <-n.held }

// release forwards the held connections, and returns how many connections there have been.
func (n *slowNetwork) release() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.gate)
	return n.opened
}

func (n *slowNetwork) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opened
}

// waitForReplay waits until a standby has replayed what its primary has written.
func waitForReplay(t *testing.T, primary, standby *sql.DB) {
	t.Helper()
	var written string
	must(t, primary.QueryRow("SELECT pg_current_wal_insert_lsn()").Scan(&written))
	deadline := time.Now().Add(30 * time.Second)
	for replayed := false; !replayed; {
		must(t, standby.QueryRow("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", written).Scan(&replayed))
		if time.Now().After(deadline) {
			t.Fatal("the standby doesn't catch up")
		}
	}
}
