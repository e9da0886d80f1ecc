//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pgdb

import (
	"net"
	"syscall"
)

// peeker looks at a socket without taking anything from it. It isn't safe for concurrent use.
type peeker struct {
	raw  syscall.RawConn
	look func(fd uintptr) // made once, so that a look allocates nothing
	seen socketState
	byte [1]byte
}

// newPeeker returns a peeker, or nil if the connection isn't one of the system's sockets.
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

// peek returns what there is to read.
func (p *peeker) peek() socketState {
	if p == nil {
		return socketSilent
	}
	p.seen = socketSpeaks
	// RawConn.Read would wait for another reader, and after a slow write pgx leaves one behind in the idle
	// connection. If Control fails, nothing is seen, and the server is asked.
	_ = p.raw.Control(p.look)
	return p.seen
}
