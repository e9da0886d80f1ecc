package pghosts

import (
	"strings"
	"syscall"
)

// tcpConnDropTime is TCP_RXT_CONNDROPTIME (netinet/tcp.h), in seconds. Package syscall lacks it.
const tcpConnDropTime = 0x80

// limitUnacknowledged sets the socket option. If the system refuses it, the probes remain.
func limitUnacknowledged(network, _ string, socket syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return socket.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpConnDropTime,
			int(unacknowledged.Seconds()))
	})
}
