package tenantdb

import "net"

// What tests of package tenantdb_test need from inside.
var (
	VectorDir   = vectorDir
	CallsSetter = callsSetter
)

// Watched tells what a session notes of what its server sends.
func Watched(pieces ...[]byte) (changed, spoiled bool) {
	var s session
	for _, p := range pieces {
		s.watch(p)
	}
	return s.changed, s.spoiled
}

// Peek tells what there is to read from a socket: "silent", "speaks" or "ended".
func Peek(conn net.Conn) string {
	return [...]string{"silent", "speaks", "ended"}[newPeeker(conn).peek()]
}
