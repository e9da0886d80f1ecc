package pghosts

import (
	"context"
	"net"
	"time"
)

// A machine without power, or behind a network that drops packets, answers nothing. What was sent to it must
// fail all the same, and soon: whoever waits for the answer holds a connection of the budget.
const (
	// unacknowledged is how long what was sent may stay without the other side's acknowledgement.
	unacknowledged = 15 * time.Second
	// Where nothing is to be acknowledged, since the other side is to answer, it is asked by probes. The last
	// one comes 16 s after the last packet on Linux, which gives up then, and 19 s after it elsewhere.
	idleBeforeProbe, betweenProbes, probes = 10 * time.Second, 3 * time.Second, 3
)

// socketDialer makes the sockets of all connections to PostgreSQL servers.
var socketDialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: idleBeforeProbe, Interval: betweenProbes,
		Count: probes},
	Control: limitUnacknowledged,
}

// Dial is pgx's DialFunc for all connections to PostgreSQL servers. What is sent by such a connection, or
// awaited, fails within 20 s of the other side's disappearance. A server that is there and works may take its
// time: only where it reads nothing for 15 s while the client wants to send more than the network's buffers
// hold, as in a COPY, it counts as one that has disappeared.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return socketDialer.DialContext(ctx, network, address)
}
