package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// generation is one process of the product, running one deployed version with its own host database and pool.
type generation struct {
	leaving atomic.Bool
	server  *httptest.Server
	host    *hostdb.DB
	pool    *tenantdb.Pool
	mw      *tenantdb.Middleware

	sent, arrived   atomic.Int64  // requests sent here by the balancer, and received
	inside, release chan struct{} // of the request that runs when the process ends
}

// probe is how often the balancer asks whether a generation is ready.
const probe = 10 * time.Millisecond

// deploy starts a generation.
func (w *world) deploy(cfg tenantdb.PoolConfig) *generation {
	w.t.Helper()
	g := &generation{inside: make(chan struct{}), release: make(chan struct{})}
	var err error
	g.host, err = hostdb.Open(w.t.Context(), w.host.URI())
	must(w.t, err)
	g.pool, err = tenantdb.NewPool(cfg)
	must(w.t, err)
	config := w.config()
	config.Host, config.Pool = g.host, g.pool
	g.mw, err = tenantdb.New(config)
	must(w.t, err)
	tenants := http.NewServeMux()
	tenants.HandleFunc("GET /me", whoami)
	tenants.HandleFunc("POST /me", func(rw http.ResponseWriter, r *http.Request) {
		if _, err := tenantdb.DB(r.Context()).ExecContext(r.Context(),
			"UPDATE me SET name = name"); err != nil {
			tenantdb.WriteError(rw, r, err)
		}
	})
	tenants.HandleFunc("GET /slow", func(rw http.ResponseWriter, r *http.Request) {
		close(g.inside)
		<-g.release
		whoami(rw, r)
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if g.leaving.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	product := g.mw.Handler(tenants)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		g.arrived.Add(1)
		product.ServeHTTP(rw, r)
	})
	g.server = httptest.NewServer(mux)
	g.server.Config.RegisterOnShutdown(func() { close(g.release) })
	return g
}

// end is what a process does at SIGTERM. A product waits as long as its balancer takes to notice; the test
// asks the balancer.
func (g *generation) end(ctx context.Context, noticed func(*generation)) error {
	g.leaving.Store(true)
	noticed(g)
	return errors.Join(g.server.Config.Shutdown(ctx), g.mw.Close(ctx), g.pool.Close(ctx), g.host.Close())
}

// balancer sends requests to the first generation that is ready.
type balancer struct {
	mu          sync.Mutex // guards generations
	generations []*generation
	current     atomic.Pointer[generation]
}

// look asks every generation whether it is ready.
func (b *balancer) look() {
	b.mu.Lock()
	list := append([]*generation(nil), b.generations...)
	b.mu.Unlock()
	for _, g := range list {
		r, err := http.Get(g.server.URL + "/readyz")
		if err != nil {
			continue
		}
		_ = r.Body.Close()
		if r.StatusCode == http.StatusOK {
			b.current.Store(g)
			return
		}
	}
}

// pick returns the generation that receives the next request.
func (b *balancer) pick() *generation {
	for {
		g := b.current.Load()
		if g.sent.Add(1); b.current.Load() == g {
			return g
		}
		g.sent.Add(-1)
	}
}

// awaitTurn waits until the balancer sends nothing to a generation and all that was sent has arrived.
func (b *balancer) awaitTurn(from *generation) {
	for b.current.Load() == from || from.arrived.Load() < from.sent.Load() {
		<-time.After(probe)
	}
}

func (b *balancer) set(list ...*generation) {
	b.mu.Lock()
	b.generations = list
	b.mu.Unlock()
}

func TestMiddleware_rollingDeployFailsNoRequest(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme := w.tenant("acme", ann)
		cfg := tenantdb.PoolConfig{Processes: 2} // two generations run at once
		if w.engine == "sqlite" {
			cfg.SQLiteDir = filepath.Dir(w.sqliteFile(acme))
		}
		b := new(balancer)
		old := w.deploy(cfg)
		b.set(old)
		b.look()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() {
			for tick := time.NewTicker(probe); ctx.Err() == nil; <-tick.C {
				b.look()
			}
		})
		front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			to, _ := url.Parse(b.pick().server.URL)
			r.SetURL(to)
		}})
		defer front.Close()

		ask := func(method, path string) error {
			r, err := http.NewRequest(method, front.URL+path, nil)
			if err != nil {
				return err
			}
			r.Header = request("ann", "acme").Header
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, body)
			}
			return err
		}
		var asked atomic.Int64
		for i := range 4 {
			running.Go(func() {
				for ctx.Err() == nil {
					if err := ask([]string{http.MethodGet, http.MethodPost}[i%2], "/me"); err != nil {
						t.Error(err)
						return
					}
					asked.Add(1)
				}
			})
		}
		for range 3 {
			fresh := w.deploy(cfg)
			b.set(old, fresh)
			slow := make(chan error, 1)
			go func() { slow <- ask(http.MethodGet, "/slow") }()
			<-old.inside
			limited, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := old.end(limited, b.awaitTurn); err != nil {
				t.Error(err)
			}
			cancel()
			if err := <-slow; err != nil {
				t.Errorf("under way at the end: %v", err)
			}
			if b.current.Load() != fresh {
				t.Fatal("the balancer never turned to the new generation")
			}
			b.set(fresh)
			old = fresh
		}
		if asked.Load() < 20 {
			t.Errorf("only %d requests were made", asked.Load())
		}
		cancel()
		running.Wait()
		if err := old.end(t.Context(), func(*generation) {}); err != nil {
			t.Error(err)
		}
	})
}
