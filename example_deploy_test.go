package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb"
)

// A process ends in a rolling deploy without failing a request. It reports that it isn't ready, serves until
// the balancer has noticed, and only then closes its server and what the server used. Meanwhile the processes
// of both versions share the servers' connections: set PoolConfig.Processes to how many may run at once.
func ExampleMiddleware_Close() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	var leaving atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mw.Readyz(w, r)
	})
	mux.Handle("/", mw.Handler(http.NotFoundHandler()))
	server := httptest.NewServer(mux) // an http.Server
	ready := func() int {
		r, err := http.Get(server.URL + "/readyz")
		check(err)
		defer r.Body.Close()
		return r.StatusCode
	}
	for ready() != http.StatusOK { // the host database hasn't answered yet
		<-time.After(time.Millisecond)
	}
	fmt.Println("ready")

	// the balancer's interval times its failure threshold; seconds in most products
	const notice = 300 * time.Millisecond
	end := func() error { // at SIGTERM
		leaving.Store(true)
		<-time.After(notice)
		// shorter than the time until SIGKILL
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return errors.Join(server.Config.Shutdown(ctx), mw.Close(ctx), s.pool.Close(ctx), s.host.Close())
	}
	ended := make(chan error)
	go func() { ended <- end() }()
	for !leaving.Load() {
		<-time.After(time.Millisecond)
	}
	fmt.Println(ready())
	fmt.Println(<-ended)
	// Output:
	// ready
	// 503
	// <nil>
}
