package main

import (
	"net"
	"time"
)

// piece is what was read at once, and when to send it on.
type piece struct {
	bytes []byte
	due   time.Time
}

// delayed starts a proxy to a server's host:port and returns the proxy's. It sends on what it reads after a
// delay, as a longer wire does, however much is under way.
func delayed(b *Bench, target string, delay time.Duration) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	b.onClose(func() { _ = listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			go carry(in, out, delay)
			go carry(out, in, delay)
		}
	}()
	return listener.Addr().String(), nil
}

// carry copies from one end to the other, and closes both when one is closed.
func carry(from, to net.Conn, delay time.Duration) {
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			bytes := make([]byte, 32<<10)
			n, err := from.Read(bytes)
			if err != nil {
				return
			}
			pieces <- piece{bytes[:n], time.Now().Add(delay)}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	for range pieces { // until the reader has noticed
	}
}
