package pgdb

import (
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// peek tells what there is to read from a socket: "silent", "speaks" or "ended".
func peek(conn net.Conn) string {
	return [...]string{"silent", "speaks", "ended"}[newPeeker(conn).peek()]
}

func TestPeeker_seesDataAndTheEndAndTakesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("sockets aren't looked at there")
	}
	listeners := map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")}
	for network, address := range listeners {
		t.Run(network, func(t *testing.T) {
			listener, err := net.Listen(network, address)
			must(t, err)
			defer listener.Close()
			conn, err := net.Dial(network, listener.Addr().String())
			must(t, err)
			defer conn.Close()
			far, err := listener.Accept()
			must(t, err)
			if got := peek(conn); got != "silent" {
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
					seen = peek(conn)
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
			eventually(t, func() bool { return peek(conn) == "speaks" })
			must(t, far.Close())
			if got := peek(conn); got != "speaks" {
				t.Errorf("with data before the end: %s", got)
			}
			word := make([]byte, 2)
			if n, err := conn.Read(word); n != 1 || err != nil {
				t.Errorf("the peek took what it saw: read %d, %v", n, err)
			}
			eventually(t, func() bool { return peek(conn) == "ended" })
			must(t, conn.Close())
			if got := peek(conn); got == "silent" {
				t.Errorf("closed on this side: %s", got)
			}
		})
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if got := peek(near); got != "silent" {
		t.Errorf("not a socket: %s", got)
	}
}
