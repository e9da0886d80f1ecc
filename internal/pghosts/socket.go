package pghosts

import (
	"context"
	"net"
	"time"
)

// A machine that has lost power, or that is behind a network that drops packets, answers nothing. Statements
// sent to it must fail soon nevertheless, because whoever waits for the answer holds a connection of the
// budget.
const (
	// unacknowledged is how long sent data may remain unacknowledged.
	unacknowledged = 15 * time.Second
	// If nothing is to be acknowledged, because the other side has to answer, keepalive probes test it. The
	// last one is sent 16 s after the last packet on Linux, which gives up then, and 19 s after it
	// elsewhere.
	idleBeforeProbe, betweenProbes, probes = 10 * time.Second, 3 * time.Second, 3
)

// socketDialer opens the sockets of all connections to PostgreSQL servers.
var socketDialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: idleBeforeProbe, Interval: betweenProbes,
		Count: probes},
	Control: limitUnacknowledged,
}

// Dial is pgx's DialFunc for all connections to PostgreSQL servers. Data sent or awaited by such a
// connection fails within 20 s after the other side has disappeared. A working server may take any time to
// answer. It counts as disappeared only if it reads nothing for 15 s while the client has more to send than
// the network's buffers hold, as in a COPY.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return socketDialer.DialContext(ctx, network, address)
}
