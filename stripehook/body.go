package stripehook

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// maxBodies bounds the bodies of all deliveries that are being read or worked on, in bytes. Most events
	// have a few thousand.
	maxBodies = 32 << 20
	// bodyTime is how long a sender may take for a body. Nobody has signed it before it is whole.
	bodyTime = 10 * time.Second
	// bodyStart is how much of a body is held at first.
	bodyStart = 4 << 10
)

// Why a body isn't read to its end.
var (
	errBodyLong  = errors.New("the body is too long")
	errBodyEarly = errors.New("the body ended early")
	errBodyRoom  = errors.New("too many deliveries at once; try again")
)

// bodies counts the memory that bodies take. A sender's word about a body's length counts for nothing.
type bodies struct{ held atomic.Int64 }

// take counts n more bytes, if there is room for them.
func (b *bodies) take(n int) bool {
	if b.held.Add(int64(n)) <= maxBodies {
		return true
	}
	b.held.Add(-int64(n))
	return false
}

// read returns a request's body. The returned function, to be called when it is needed no more, is never nil.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	taken := 0
	release = func() { b.held.Add(-int64(taken)) }
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTime)) // where the server can't do that, its ReadTimeout is all there is
	from := http.MaxBytesReader(w, r.Body, maxBody)
	for {
		if len(body) == cap(body) {
			more := max(bodyStart, cap(body))
			if !b.take(more) {
				return nil, release, errBodyRoom
			}
			taken += more
			body = append(make([]byte, 0, cap(body)+more), body...)
		}
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		var long *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF): // else the server still has to get rid of the rest
			_ = control.SetReadDeadline(time.Time{})
			return body, release, nil
		case errors.As(err, &long):
			return nil, release, errBodyLong
		case err != nil:
			return nil, release, errBodyEarly
		}
	}
}
