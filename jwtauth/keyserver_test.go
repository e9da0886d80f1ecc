package jwtauth

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// keyServer is an issuer's web server on loopback.
type keyServer struct {
	*httptest.Server
	mu       sync.Mutex
	handler  http.HandlerFunc
	requests int
}

// newKeyServer serves a key set at every path until told otherwise.
func newKeyServer(t testing.TB, document string) *keyServer {
	t.Helper()
	s := &keyServer{}
	s.serve(document)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests++
		handler := s.handler
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// serve answers with a document from now on.
func (s *keyServer) serve(document string) {
	s.answer(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(document)) })
}

// fail answers with a status from now on.
func (s *keyServer) fail(status int) {
	s.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

func (s *keyServer) answer(handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = handler
}

// fetches returns how many requests came.
func (s *keyServer) fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// newRemoteFixture returns an authenticator for ES256 tokens whose keys come from the server.
func newRemoteFixture(t testing.TB, server *keyServer, change func(*Config)) *Authenticator {
	t.Helper()
	c := testConfig("ES256")
	c.JWKSURL = server.URL + "/keys"
	if change != nil {
		change(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// settle waits until no fetch of the first issuer is in flight.
func settle(a *Authenticator) {
	keys := a.state.issuers[testIssuer].keys.(*remoteKeys)
	keys.mu.Lock()
	f := keys.flight
	keys.mu.Unlock()
	if f != nil {
		<-f.done
	}
}

func publicPEM(t testing.TB, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
