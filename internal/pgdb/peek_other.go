//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package pgdb

import "net"

// peeker sees nothing on these systems.
type peeker struct{}

func newPeeker(net.Conn) *peeker { return nil }

func (*peeker) peek() socketState { return socketSilent }
