package stripehook_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb/stripehook"
)

// begin writes a POST of a body of that length, but for its last byte, which nobody ever sends.
func begin(to io.Writer, length int) error {
	head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nStripe-Signature: %s\r\nContent-Length: %d\r\n\r\n",
		sign("x", "whsec_wrong", time.Now()), length)
	_, err := io.WriteString(to, head+strings.Repeat("x", length-1))
	return err
}

// TestHook_bodiesThatNobodySignedTakeBoundedMemory holds 1,000 unfinished deliveries of a quarter of a MiB
// each.
func TestHook_bodiesThatNobodySignedTakeBoundedMemory(t *testing.T) {
	const (
		senders = 1000
		length  = 256 << 10
		allowed = 96 << 20 // the bound on bodies, what they grow through, and a thousand connections
	)
	w := newWorld(t, sqliteURL(t))
	server := httptest.NewServer(w.newHook(stripehook.Config{Now: time.Now}))
	defer server.Close()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	conns := make([]net.Conn, senders)
	var sending sync.WaitGroup
	for i := range conns {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		must(t, err)
		defer conn.Close()
		conns[i] = conn
	}
	places := make(chan struct{}, 50)
	refused := make(chan struct{}, senders)
	for _, conn := range conns {
		places <- struct{}{}
		sending.Go(func() {
			_ = begin(conn, length) // who is refused can't write it all
			<-places
			if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil &&
				answer.StatusCode == http.StatusServiceUnavailable &&
				answer.Header.Get("Retry-After") != "" {
				refused <- struct{}{}
			}
		})
	}
	eventually(t, "most are refused", func() bool { return len(refused) > senders/2 })
	if grown := int64(heap()) - int64(before); grown > allowed {
		t.Errorf("%d MiB are held for %d unfinished bodies", grown>>20, senders)
	}
	for _, conn := range conns {
		conn.Close()
	}
	sending.Wait()
	event := `{"id":"evt_1","object":"event","type":"x.y","created":1,"livemode":false,"data":{"object":{}}}`
	eventually(t, "the memory is given back", func() bool {
		r, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader(event))
		must(t, err)
		r.Header.Set("Stripe-Signature", sign(event, secret, time.Now()))
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// pipes is a listener of one connection.
type pipes struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conn:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestHook_aSenderHasTenSecondsForABody(t *testing.T) {
	hook := newWorld(t, sqliteURL(t)).newHook(stripehook.Config{Now: time.Now})
	synctest.Test(t, func(t *testing.T) {
		client, inside := net.Pipe()
		listener := &pipes{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		listener.conn <- inside
		server := &http.Server{Handler: hook}
		go func() { _ = server.Serve(listener) }()
		start := time.Now()
		must(t, begin(client, 1000))
		answer, err := http.ReadResponse(bufio.NewReader(client), nil)
		must(t, err)
		if took := time.Since(start); answer.StatusCode != http.StatusBadRequest || took != 10*time.Second {
			t.Errorf("answered %d after %v", answer.StatusCode, took)
		}
		_ = client.Close()
		_ = server.Close()
	})
}

func TestHook_theBodysDeadlineIsLiftedOnceItIsRead(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	event := `{"id":"evt_1","object":"event","type":"x.y","created":1,"livemode":false,"data":{"object":{}}}`
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(event))
	r.Header.Set("Stripe-Signature", sign(event, secret, noon))
	rec := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	w.hook.ServeHTTP(rec, r)
	if len(rec.set) != 2 || time.Until(rec.set[0]) > 10*time.Second || !rec.set[1].IsZero() ||
		rec.Code != 200 {
		t.Errorf("answered %d, deadlines %v", rec.Code, rec.set)
	}
}

// deadlines notes the read deadlines that are set.
type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.set = append(d.set, at)
	return nil
}
