package rough

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
)

// resolver gives the same answer to every question for an IPv4 address, and says that there are no other
// records. Nobody may keep an answer (TTL 0).
type resolver struct {
	conn   net.PacketConn
	answer atomic.Value // an address, silent, or unknown
}

// What the resolver may do instead of giving an address.
const silent, unknown = "silent", "unknown"

// newResolver starts a resolver, which ends with the namespaces.
func newResolver(address string) (*resolver, error) {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	r := &resolver{conn: conn}
	r.say(unknown)
	go r.serve()
	return r, nil
}

// say sets the answer.
func (r *resolver) say(answer string) { r.answer.Store(answer) }

func (r *resolver) serve() {
	question := make([]byte, 1500)
	for {
		n, from, err := r.conn.ReadFrom(question)
		if err != nil {
			return
		}
		if answer := r.answer.Load().(string); answer != silent {
			if reply := replyTo(question[:n], answer); reply != nil {
				_, _ = r.conn.WriteTo(reply, from)
			}
		}
	}
}

// replyTo makes a reply (RFC 1035, section 4): the header, the question, and an A record if one was asked
// for. It returns nil if it was sent no question.
func replyTo(question []byte, answer string) []byte {
	const header, typeA = 12, 1
	end := header
	for end < len(question) && question[end] != 0 { // labels
		end += 1 + int(question[end])
	}
	end += 5 // the root label, the type, the class
	if end > len(question) {
		return nil
	}
	reply := append([]byte(nil), question[:end]...)
	reply[2], reply[3] = 0x81, 0x80                 // a response; recursion was desired, and is available
	copy(reply[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0}) // one question
	if answer == unknown {
		reply[3] |= 3 // no such name
		return reply
	}
	if binary.BigEndian.Uint16(reply[end-4:]) != typeA {
		return reply
	}
	reply[7] = 1
	address := netip.MustParseAddr(answer).As4()
	record := []byte{0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4} // the question's name; class IN; TTL 0
	return append(append(reply, record...), address[:]...)
}
