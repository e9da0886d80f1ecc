package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// TestServer_takesBoundedMemory_forUnfinishedRequests keeps 1,000 requests of a quarter of a MiB each
// unfinished. They carry no credential.
func TestServer_takesBoundedMemory_forUnfinishedRequests(t *testing.T) {
	host, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "host.db"))
	must(t, err)
	defer host.Close()
	auth, err := jwtauth.New(jwtauth.Config{Issuer: "https://i", Audience: "a", Algorithms: []string{"HS256"},
		Secret: make([]byte, 32)})
	must(t, err)
	mw, err := tenantdb.New(tenantdb.Config{
		Host: host, Authenticator: auth, Tenant: tenantdb.FromHeader("X-Tenant"),
		Redirects: tenantdb.Redirects{Login: "/login"}, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	defer mw.Close(t.Context())
	filler := strings.Repeat("x", 256<<10)
	for name, request := range map[string]string{
		"header": "GET / HTTP/1.1\r\nHost: x\r\nAccept: " + filler,
		"body":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + filler,
	} {
		listener, err := net.Listen("tcp", "localhost:0")
		must(t, err)
		server := newServer(mw.Handler(http.HandlerFunc(addNote)))
		if server.ReadHeaderTimeout == 0 || server.ReadTimeout == 0 || server.IdleTimeout == 0 {
			t.Error("a sender may take for ever")
		}
		go func() { _ = server.Serve(listener) }()
		before := heap()
		flood(t, listener.Addr().String(), request)
		if grown := int64(heap()) - int64(before); grown > 100<<20 {
			t.Errorf("%s: %d MiB are held for 1,000 unfinished requests", name, grown>>20)
		}
		must(t, server.Close())
	}
}

// heap returns the bytes in use after a garbage collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// flood sends the beginning of 1,000 requests, and leaves the connections open until the test ends. It
// returns when each was sent, or when the server has closed the connection.
func flood(t *testing.T, address, request string) {
	var sending sync.WaitGroup
	places := make(chan struct{}, 50)
	for range 1000 {
		conn, err := net.Dial("tcp", address)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		places <- struct{}{}
		sending.Go(func() {
			_, _ = io.WriteString(conn, request)
			<-places
		})
	}
	sending.Wait()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
