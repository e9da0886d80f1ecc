package main

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

var requestScenario = Scenario{
	Name:  "request",
	Title: "A request's overhead, in process",
	About: `A guard in front of a handler that does nothing, called without a network. CPU is the process's
time for one request, garbage collection included. Elapsed is what a core had for one request (elapsed ×
cores ÷ requests): more where something waits, or where other programs run. Each guard has seen every token
before, in other requests. Tokens are visited in an order that the processor can't foresee. The peers
authenticate only. The hand-written guard and the lower bound also ask who is a member, but they lease no
database, and hear of a change only after minutes. tenantdb does all of that. The lower bound is
bench/bound.go, which was frozen before tenantdb was tuned. A Scope is made for a handler that asks for it,
which has a row of its own; a handler that only wants its tenant's database doesn't ask. Targets: tenantdb ≤
1.5 × the lower bound and ≤ 3 allocations; ≤ 1.5 µs with 10,000 tokens.`,
	Open: openRequest,
}

// requestGuards are the guards, and tenantdb with a handler that reads its Scope.
var requestGuards = slices.Insert(slices.Clone(guards), slices.Index(guards, ours)+1, oursRead)

var algorithms = []string{"HS256", "RS256", "EdDSA"}

func openRequest(b *Bench) (*Comparison, error) {
	w, err := newWorld(b, b.scale.tokens, min(100, b.scale.tokens))
	if err != nil {
		return nil, err
	}
	c := &Comparison{Bases: []string{lowerBound}, Columns: []Column{
		{Name: "CPU", Format: nanoseconds, Ratio: true},
		{Name: "elapsed", Format: nanoseconds}, {Name: "allocations", Format: tenths}}}
	for _, algorithm := range algorithms {
		keys, err := newKeyPair(algorithm)
		if err != nil {
			return nil, err
		}
		requests, err := keys.requests(w, b.scale.tokens)
		if err != nil {
			return nil, err
		}
		handlers := map[string]http.Handler{}
		for _, name := range requestGuards {
			h, closed, err := newGuard(name, keys, w.host, w.pool,
				http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			b.onClose(closed)
			handlers[name] = h
		}
		for _, tokens := range []int{1, len(requests)} {
			for _, cores := range []int{1, 2} {
				for _, name := range requestGuards {
					c.Rows = append(c.Rows, Row{fmt.Sprintf("%s, %d tokens, %d cores", algorithm, tokens,
						cores), name, func() ([]float64, error) {
						return serveInProcess(handlers[name], requests[:tokens], remembers(name), cores,
							b.scale.slice)
					}})
				}
			}
		}
	}
	return c, nil
}

// silent is a ResponseWriter that keeps the status only.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }
func (s *silent) WriteHeader(status int)      { s.status = status }

// serveInProcess calls a handler with the requests in turn, on a number of cores, for a while. If it may
// remember them, each request is sent twice before. It returns the nanoseconds of processor time and of a
// core, and the allocations, for one request.
func serveInProcess(h http.Handler, requests []*http.Request, remembers bool, cores int,
	d time.Duration) ([]float64, error) {
	first := requests
	if !remembers {
		first = requests[:1]
	}
	for range 2 { // when it sees a token again, the lower bound needs no lock
		for _, r := range first {
			w := &silent{header: http.Header{}}
			if h.ServeHTTP(w, twin(r)); w.status != 0 {
				return nil, fmt.Errorf("status %d", w.status)
			}
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var all sync.WaitGroup
	done, refused := make([]int, cores), make([]int, cores)
	began, used := time.Now(), cpuTime()
	for core := range cores {
		all.Go(func() { done[core], refused[core] = serveLoop(h, requests, core, began.Add(d)) })
	}
	all.Wait()
	took, cpu := time.Since(began), cpuTime()-used
	runtime.ReadMemStats(&after)
	n := 0
	for core := range cores {
		n += done[core]
		if refused[core] != 0 {
			return nil, fmt.Errorf("status %d", refused[core])
		}
	}
	return []float64{float64(cpu) / float64(n), float64(took) * float64(cores) / float64(n),
		float64(after.Mallocs-before.Mallocs) / float64(n)}, nil
}

// twin returns a request whose headers have the same text in other memory. A request from a network never
// shares its token's bytes with what a guard remembers, and strings in the same memory compare faster.
func twin(r *http.Request) *http.Request {
	other := r.Clone(r.Context())
	for _, values := range other.Header {
		for i, v := range values {
			values[i] = strings.Clone(v)
		}
	}
	return other
}

// serveLoop serves until the deadline. It returns how many requests it served, and the status of a refused
// one, if there was one.
func serveLoop(h http.Handler, requests []*http.Request, core int, deadline time.Time) (n, refused int) {
	const step, batch = 7919, 256 // a prime step reaches every request
	w := &silent{header: http.Header{}}
	for i := core * len(requests) / 2; n == 0 || time.Now().Before(deadline); n += batch {
		for range batch {
			h.ServeHTTP(w, requests[i%len(requests)])
			i += step
		}
	}
	return n, w.status
}
