package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb/chaos/app"
	"github.com/tenantdb/tenantdb/chaos/judge"
)

// newToken makes a user's token.
func newToken(user string) (string, error) {
	now := time.Now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256,
		jwt.MapClaims{"iss": app.Issuer, "aud": app.Audience, "sub": user,
			"iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix()}).SignedString([]byte(secret))
}

// Load sends requests at a fixed rate, however long the answers take, and passes them to the judge.
type Load struct {
	Judge *judge.Judge
	// Rate is how many requests are sent in a second. Writes and Conns are the shares of /write and /conn;
	// the rest is /me.
	Rate, Writes, Conns float64

	clients  []Client
	client   *http.Client
	sequence atomic.Int64
	flying   sync.WaitGroup
	inFlight atomic.Int64
	stop     chan struct{}
	stopped  chan struct{}

	mu        sync.Mutex // guards what follows
	processes []*Process
	samples   []Sample
	unsteady  []Client
}

// volatile are the clients whose rights change. Half of the requests are theirs.
func (l *Load) volatile(clients []Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsteady = clients
}

// mostInFlight bounds how many requests are under way at once. More are not sent.
const mostInFlight = 800

// NewLoad prepares a load from clients, at 60 requests a second.
func NewLoad(j *judge.Judge, clients []Client) *Load {
	transport := &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	return &Load{Judge: j, Rate: 60, Writes: 0.15, Conns: 0.15, clients: clients, client: &http.Client{
		Timeout: time.Minute, Transport: transport}}
}

// Send sets the processes that get requests, as a balancer's configuration does.
func (l *Load) Send(to ...*Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.processes = append([]*Process(nil), to...)
}

// Start starts the load.
func (l *Load) Start(seed uint64) {
	l.stop, l.stopped = make(chan struct{}), make(chan struct{})
	r := rand.New(rand.NewPCG(seed, 7))
	go func() {
		defer close(l.stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for began, sent := time.Now(), 0.0; ; {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			for due := time.Since(began).Seconds() * l.Rate; sent < due; sent++ {
				l.send(r)
			}
		}
	}()
}

// send sends one request.
func (l *Load) send(r *rand.Rand) {
	kind, share := "me", r.Float64()
	switch {
	case share < l.Writes:
		kind = "write"
	case share < l.Writes+l.Conns:
		kind = "conn"
	}
	l.mu.Lock()
	clients := l.clients
	if n := len(l.unsteady); n > 0 && r.IntN(2) == 0 {
		clients = l.unsteady
	}
	client := clients[r.IntN(len(clients))]
	var to *Process
	if n := len(l.processes); n > 0 {
		to = l.processes[r.IntN(n)]
	}
	l.mu.Unlock()
	if to == nil || l.inFlight.Load() >= mostInFlight {
		return
	}
	l.inFlight.Add(1)
	l.flying.Go(func() {
		defer l.inFlight.Add(-1)
		l.Add(l.Ask(context.Background(), to, kind, client, ""))
	})
}

// Stop ends the load, waits for the answers, and closes the connections.
func (l *Load) Stop() {
	close(l.stop)
	<-l.stopped
	l.flying.Wait()
	l.client.CloseIdleConnections()
}

// Add keeps a sample.
func (l *Load) Add(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.samples = append(l.samples, s)
}

// Since removes and returns the samples since a time, and drops older ones.
func (l *Load) Since(from time.Time) (list []Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.samples {
		if !s.Sent.Before(from) {
			list = append(list, s)
		}
	}
	l.samples = nil
	return list
}

// Look returns the samples since a time.
func (l *Load) Look(from time.Time) (list []Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.samples {
		if !s.Sent.Before(from) {
			list = append(list, s)
		}
	}
	return list
}

// Ask sends one request and passes the answer to the judge. The caller adds the sample if it counts.
func (l *Load) Ask(ctx context.Context, to *Process, kind string, c Client, query string) Sample {
	method, id := http.MethodGet, ""
	if kind == "write" {
		id = fmt.Sprintf("%s.%d.%d", c.Tenant.Slug, time.Now().UnixNano(), l.sequence.Add(1))
		method, query = http.MethodPost, "id="+id
	}
	s := Sample{Sent: time.Now(), Process: to, Client: c, Kind: kind}
	req, err := http.NewRequestWithContext(ctx, method, to.Base()+"/"+kind+"?"+query, nil)
	if err != nil {
		s.Cause = err.Error()
		return s
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("X-Tenant", c.Tenant.Slug)
	resp, err := l.client.Do(req)
	if err != nil {
		s.Took, s.Cause = time.Since(s.Sent), err.Error()
		return s
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	s.Took = time.Since(s.Sent)
	if err != nil {
		s.Cause = err.Error()
		return s
	}
	l.read(&s, resp, body, id)
	return s
}

// Read reads a long response, at a number of bytes a second, until the context ends.
func (l *Load) Read(ctx context.Context, from *Process, c Client, perSecond int64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.Base()+"/stream?rows=4000", nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("X-Tenant", c.Tenant.Slug)
	transport := &http.Transport{ReadBufferSize: 1024}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for ctx.Err() == nil {
		if _, err := io.CopyN(io.Discard, resp.Body, perSecond); err != nil {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// read fills a sample in and passes it to the judge.
func (l *Load) read(s *Sample, resp *http.Response, body []byte, id string) {
	var told struct {
		app.Answer
		Code string
	}
	_ = json.Unmarshal(body, &told)
	s.Status, s.Code, s.Cause, s.Generation = resp.StatusCode, told.Code, resp.Header.Get(app.CauseHeader),
		told.Generation
	s.Acquire, _ = time.ParseDuration(resp.Header.Get(app.AcquireHeader))
	s.Statement, _ = time.ParseDuration(resp.Header.Get(app.StatementHeader))
	data := told.Data
	if told.Scope != "" && told.Scope != s.Client.Tenant.Slug {
		data = "the scope of " + told.Scope
	}
	l.Judge.Judge(judge.Response{User: s.Client.User, Tenant: s.Client.Tenant.Slug, Sent: s.Sent,
		Got: s.Sent.Add(s.Took), Allowed: s.OK(),
		Denied: s.Denied(), Data: data, Detail: s.Process.Name + " " + s.Kind + " " + s.Code})
	if s.OK() && id != "" {
		l.Judge.Acknowledged(s.Client.Tenant.Slug, id, s.Sent)
	}
}
