package stripehook

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// maxBodies bounds the bodies of all deliveries in progress together, in bytes. Most events have a few
	// thousand.
	maxBodies = 32 << 20
	// bodyTime bounds the time for reading a body. Until it is complete, its sender may be anybody.
	bodyTime = 10 * time.Second
	// bodyStart is the first size of a body's buffer.
	bodyStart = 4 << 10
)

// The reasons why a body isn't read to its end.
var (
	errBodyLong  = errors.New("the body is too long")
	errBodyEarly = errors.New("the body ended early")
	errBodyRoom  = errors.New("too many deliveries at once; try again")
)

// bodies counts the memory that bodies take. Content-Length is not trusted.
type bodies struct{ held atomic.Int64 }

// take counts n more bytes, if there is room for them.
func (b *bodies) take(n int) bool {
	if b.held.Add(int64(n)) <= maxBodies {
		return true
	}
	b.held.Add(-int64(n))
	return false
}

// read returns a request's body. The caller must call release when it no longer needs the body, also after an
// error.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	taken := 0
	release = func() { b.held.Add(-int64(taken)) }
	control := http.NewResponseController(w)
	// where the server can't do that, its ReadTimeout is all there is
	_ = control.SetReadDeadline(time.Now().Add(bodyTime))
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
