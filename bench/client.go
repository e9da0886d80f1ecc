package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// shot is one request's outcome.
type shot struct {
	tenant  int
	latency time.Duration
	wrong   bool // a status other than 200, or another tenant's name
}

// target is a server under load, and the request and answer of each tenant.
type target struct {
	server   *child
	requests [][]byte // by tenant, as bytes on the wire
	answers  [][]byte // by tenant
}

// wireRequest returns the bytes of a GET in HTTP/1.1.
func wireRequest(headers ...string) []byte {
	var b bytes.Buffer
	b.WriteString("GET / HTTP/1.1\r\nHost: app.example.com\r\n")
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// wire is a connection to a server that is kept open.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	body []byte
}

func (t *target) dial() (*wire, error) {
	conn, err := net.Dial("tcp", t.server.address)
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn, in: bufio.NewReader(conn)}, nil
}

// ask sends a tenant's request and reads the answer.
func (t *target) ask(w *wire, tenant int) (right bool, err error) {
	status, err := w.send(t.requests[tenant])
	return status == 200 && bytes.Equal(w.body, t.answers[tenant]), err
}

// send sends a request and returns the answer's status.
func (w *wire) send(request []byte) (status int, err error) {
	if err := w.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	if _, err := w.conn.Write(request); err != nil {
		return 0, err
	}
	return w.read()
}

// read reads an answer into body and returns its status.
func (w *wire) read() (int, error) {
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("status line %q", line)
	}
	code, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, err
	}
	length := -1
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, fmt.Errorf("an answer without a length")
	}
	w.body = slices.Grow(w.body[:0], length)[:length]
	_, err = io.ReadFull(w.in, w.body)
	return code, err
}

// closedLoop runs a number of clients that request the tenants of the trace in turn, beginning at index from.
// Each sends its next request as soon as its last answer has come. The loop ends after d, or, if d is 0, with
// the trace. It returns the outcome of every request, and how long the loop took.
func (t *target) closedLoop(clients int, trace []int, from int,
	d time.Duration) ([]shot, time.Duration, error) {
	var next atomic.Int64
	began := time.Now()
	shots, err := t.fire(clients, trace, from, func() (int, time.Time, bool) {
		i, asked := int(next.Add(1)-1), time.Now()
		return i, asked, d == 0 && i < len(trace) || d != 0 && asked.Sub(began) <= d
	})
	return shots, time.Since(began), err
}

// openLoop sends requests at a steady rate, whether answers come or not. A latency runs from the time at
// which the request was due.
func (t *target) openLoop(clients int, trace []int, from int, rate float64, d time.Duration) ([]shot, error) {
	var next atomic.Int64
	total := int64(rate * d.Seconds())
	began := time.Now()
	return t.fire(clients, trace, from, func() (int, time.Time, bool) {
		i := next.Add(1) - 1
		due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if i < total {
			time.Sleep(time.Until(due))
		}
		return int(i), due, i < total
	})
}

// fire runs a number of clients that request the tenants of the trace, beginning at index from. turn returns
// a client's next request and the time from which its latency runs, or false if there is none.
func (t *target) fire(clients int, trace []int, from int,
	turn func() (i int, since time.Time, more bool)) ([]shot, error) {
	var all sync.WaitGroup
	shots, errs := make([][]shot, clients), make([]error, clients)
	for c := range clients {
		all.Go(func() {
			w, err := t.dial()
			if err != nil {
				errs[c] = err
				return
			}
			defer w.conn.Close()
			for i, since, more := turn(); more; i, since, more = turn() {
				tenant := trace[(from+i)%len(trace)]
				right, err := t.ask(w, tenant)
				if err != nil {
					errs[c] = err
					return
				}
				shots[c] = append(shots[c], shot{tenant, time.Since(since), !right})
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return slices.Concat(shots...), nil
}

// wrongs counts refused and wrong answers.
func wrongs(shots []shot) float64 {
	n := 0
	for _, s := range shots {
		if s.wrong {
			n++
		}
	}
	return float64(n)
}

// latency returns a quantile, in nanoseconds, of the latencies of those shots whose tenant of allows.
func latency(shots []shot, q float64, of func(tenant int) bool) float64 {
	var list []float64
	for _, s := range shots {
		if of(s.tenant) {
			list = append(list, float64(s.latency))
		}
	}
	slices.Sort(list)
	return quantile(list, q)
}

// everyone allows every tenant.
func everyone(int) bool { return true }
