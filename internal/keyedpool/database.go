package keyedpool

import (
	"context"
	"encoding/binary"
)

// database is a tenant in one generation: one target on one server. The first four fields don't change. The
// server's mutex guards the others.
type database[T comparable, C any] struct {
	tenant     *tenant[T, C]
	server     *server[T, C]
	target     T
	generation uint32

	// a newer generation, or nothing, has taken its place: its connections serve nobody else
	stale    bool
	dialing  bool        // its one dial is under way
	live     int32       // open connections, idle or leased, that are not being closed
	idle     *conn[T, C] // the one used last on top
	edition  uint32      // of the connections that may serve
	cancel   context.CancelFunc
	waiting  list[*waiter[T, C]]
	backoff  backoff
	counters counters

	// Its place in one of the server's queues, and in the heap of victims.
	queue   node[*database[T, C]]
	place   int32
	score   score
	lastUse uint64
}

// counters count over all generations.
type counters struct {
	acquires, opens, stolen, refusals uint64
	waits                             *Histogram // nil until somebody has waited
}

// clone returns a copy that shares nothing.
func (f counters) clone() counters {
	if f.waits != nil {
		waits := *f.waits
		f.waits = &waits
	}
	return f
}

// pack returns the counters as varints, without zeros at the end. Packed, a dormant tenant that was used once
// takes 193 bytes instead of 321.
func (f counters) pack() string {
	all := []uint64{f.acquires, f.opens, f.stolen, f.refusals}
	if f.waits != nil {
		all = append(all, f.waits[:]...)
	}
	for len(all) > 0 && all[len(all)-1] == 0 {
		all = all[:len(all)-1]
	}
	var packed []byte
	for _, n := range all {
		packed = binary.AppendUvarint(packed, n)
	}
	return string(packed)
}

// unpack reverses pack.
func unpack(packed string) (f counters) {
	rest := []byte(packed)
	next := func() uint64 {
		n, size := binary.Uvarint(rest)
		rest = rest[max(size, 0):]
		return n
	}
	f.acquires, f.opens, f.stolen, f.refusals = next(), next(), next(), next()
	if len(rest) > 0 {
		f.waits = new(Histogram)
		for i := range f.waits {
			f.waits[i] = next()
		}
	}
	return f
}
