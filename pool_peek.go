//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package tenantdb

import (
	"net"
	"syscall"
)

// peeker looks at a socket without taking anything from it. It isn't for two goroutines at once.
type peeker struct {
	raw  syscall.RawConn
	look func(fd uintptr) // made once, so that a look allocates nothing
	seen socketState
	byte [1]byte
}

// newPeeker makes one; nil where the connection isn't a socket of the system's.
func newPeeker(conn net.Conn) *peeker {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	p := &peeker{raw: raw}
	p.look = func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), p.byte[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EAGAIN || err == syscall.EWOULDBLOCK:
			p.seen = socketSilent
		case n > 0 || err == syscall.EINTR:
			p.seen = socketSpeaks
		default: // the end, or a reset
			p.seen = socketEnded
		}
	}
	return p
}

// peek says what there is to read.
func (p *peeker) peek() socketState {
	if p == nil {
		return socketSilent
	}
	p.seen = socketSpeaks
	// Not Read, which would wait for a reader: where a write took long, pgx leaves one behind in the idle
	// connection. Where this fails nothing is seen, and the server is asked.
	_ = p.raw.Control(p.look)
	return p.seen
}
