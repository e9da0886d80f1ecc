package jwtauth

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
)

func TestFetch_redirects(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	document := keySetOf(s.jwk(t, testKeyID, nil))
	elsewhere := newKeyServer(t, document)
	for name, test := range map[string]struct {
		location string
		want     error
	}{
		"same host":            {"/moved", nil},
		"another port":         {elsewhere.URL, tenantdb.ErrAuthUnavailable},
		"another host":         {"http://localhost/keys", tenantdb.ErrAuthUnavailable},
		"no scheme, elsewhere": {"//issuer.example/keys", tenantdb.ErrAuthUnavailable},
		"a file":               {"file:///etc/passwd", tenantdb.ErrAuthUnavailable},
		"round in circles":     {"/keys", tenantdb.ErrAuthUnavailable},
	} {
		server := newKeyServer(t, document)
		server.answer(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/keys" {
				http.Redirect(w, r, test.location, http.StatusFound)
				return
			}
			io.WriteString(w, document)
		})
		a := newRemoteFixture(t, server, nil)
		verifies(t, a, name, s.token(t, nil), test.want)
	}
	if n := elsewhere.fetches(); n != 0 {
		t.Errorf("%d fetches from another host", n)
	}
}

// TestFetch_redirectToHTTP starts on https, with the same host and port in front of http.
func TestFetch_redirectToHTTP(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	document := keySetOf(s.jwk(t, testKeyID, nil))
	for scheme, want := range map[string]error{"https": nil, "http": tenantdb.ErrAuthUnavailable} {
		client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/keys" {
				answer := answerOf("")
				answer.StatusCode = http.StatusFound
				answer.Header.Set("Location", scheme+"://issuer.example/moved")
				return answer, nil
			}
			return answerOf(document), nil
		})}
		c := testConfig("ES256")
		c.JWKSURL, c.HTTPClient = "https://issuer.example/keys", client
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		verifies(t, a, scheme, s.token(t, nil), want)
		if client.CheckRedirect != nil {
			t.Error("the caller's client was changed")
		}
	}
}

// TestFetch_answersAreBounded at a mebibyte, also where they come compressed.
func TestFetch_answersAreBounded(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	document := keySetOf(s.jwk(t, testKeyID, nil))
	for name, test := range map[string]struct {
		size       int
		compressed bool
		want       error
	}{
		"a mebibyte":          {maxDocumentBytes, false, nil},
		"a byte more":         {maxDocumentBytes + 1, false, tenantdb.ErrAuthUnavailable},
		"compressed":          {maxDocumentBytes, true, nil},
		"compressed and more": {20 * maxDocumentBytes, true, tenantdb.ErrAuthUnavailable},
	} {
		body := []byte(document + strings.Repeat(" ", test.size-len(document)))
		if test.compressed {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write(body)
			z.Close()
			body = b.Bytes()
		}
		server := newKeyServer(t, "")
		server.answer(func(w http.ResponseWriter, _ *http.Request) {
			if test.compressed {
				w.Header().Set("Content-Encoding", "gzip")
			}
			w.Write(body)
		})
		_, err := newRemoteFixture(t, server, nil).Verify(t.Context(), s.token(t, nil))
		if !errors.Is(err, test.want) || test.want != nil &&
			!strings.Contains(err.Error(), "sends more than 1048576 bytes") {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestFetch_noConnectionIdles after a fetch: the next one is minutes away.
func TestFetch_noConnectionIdles(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, "")
	server.answer(func(w http.ResponseWriter, r *http.Request) {
		if !r.Close {
			t.Error("the request leaves its connection open")
		}
		io.WriteString(w, keySetOf(s.jwk(t, testKeyID, nil)))
	})
	verifies(t, newRemoteFixture(t, server, nil), "a token", s.token(t, nil), nil)
}

// TestFetch_brokenAnswers that end early or never begin.
func TestFetch_brokenAnswers(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	for name, handler := range map[string]http.HandlerFunc{
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, keySetOf(s.jwk(t, testKeyID, nil)))
		},
		"closed":     func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"partial content": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, keySetOf(s.jwk(t, testKeyID, nil)))
		},
		"too many keys": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, keySetOf(s.jwk(t, testKeyID, nil), "{}"+strings.Repeat(",{}", maxKeys)))
		},
	} {
		server := newKeyServer(t, "")
		server.answer(handler)
		verifies(t, newRemoteFixture(t, server, nil), name, s.token(t, nil), tenantdb.ErrAuthUnavailable)
	}
}

// TestFetch_discovery finds the set through the issuer's document, and only if that is the issuer's.
func TestFetch_discovery(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	document := keySetOf(s.jwk(t, testKeyID, nil))
	for name, test := range map[string]struct {
		discovery string
		want      error
	}{
		"right": {`{"issuer":"{server}","jwks_uri":"{server}/keys","x":[1]}`, nil},
		"another issuer": {`{"issuer":"https://evil.example","jwks_uri":"{server}/keys"}`,
			tenantdb.ErrAuthUnavailable},
		"issuer and a slash": {`{"issuer":"{server}/","jwks_uri":"{server}/keys"}`,
			tenantdb.ErrAuthUnavailable},
		"issuer in capitals": {`{"ISSUER":"{server}","jwks_uri":"{server}/keys"}`,
			tenantdb.ErrAuthUnavailable},
		"no issuer":         {`{"jwks_uri":"{server}/keys"}`, tenantdb.ErrAuthUnavailable},
		"no jwks_uri":       {`{"issuer":"{server}"}`, tenantdb.ErrAuthUnavailable},
		"jwks_uri a number": {`{"issuer":"{server}","jwks_uri":1}`, tenantdb.ErrAuthUnavailable},
		"jwks_uri relative": {`{"issuer":"{server}","jwks_uri":"/keys"}`, tenantdb.ErrAuthUnavailable},
		"jwks_uri with user": {`{"issuer":"{server}","jwks_uri":"http://u:p@localhost/keys"}`,
			tenantdb.ErrAuthUnavailable},
		"jwks_uri plain": {`{"issuer":"{server}","jwks_uri":"http://issuer.example/keys"}`,
			tenantdb.ErrAuthUnavailable},
		"jwks_uri a file": {`{"issuer":"{server}","jwks_uri":"file:///etc/passwd"}`,
			tenantdb.ErrAuthUnavailable},
		"issuer twice": {`{"issuer":"x","issuer":"{server}","jwks_uri":"{server}/keys"}`,
			tenantdb.ErrAuthUnavailable},
		"not JSON": {`<html>`, tenantdb.ErrAuthUnavailable},
	} {
		server := newKeyServer(t, "")
		server.answer(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/.well-known/openid-configuration":
				io.WriteString(w, strings.ReplaceAll(test.discovery, "{server}", server.URL))
			case "/keys":
				io.WriteString(w, document)
			}
		})
		c := testConfig("ES256")
		c.Issuer, c.Discover = server.URL, true
		c.HTTPClient = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Hostname() == "issuer.example" { // it would answer, were it asked
				return answerOf(document), nil
			}
			return http.DefaultTransport.RoundTrip(r)
		})}
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		verifies(t, a, name, s.token(t, map[string]any{"iss": server.URL}), test.want)
	}
}

// TestFetch_secureIssuerCannotSendUsToPlainLoopback: http on loopback is for those who configured it.
func TestFetch_secureIssuerCannotSendUsToPlainLoopback(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	plain := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
	secure := httptest.NewTLSServer(nil)
	t.Cleanup(secure.Close)
	secure.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, secure.URL, plain.URL)
	})
	c := testConfig("ES256")
	c.Issuer, c.Discover, c.HTTPClient = secure.URL, true, secure.Client()
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	verifies(t, a, "http behind https", s.token(t, map[string]any{"iss": secure.URL}),
		tenantdb.ErrAuthUnavailable)
	if n := plain.fetches(); n != 0 {
		t.Errorf("%d fetches over http", n)
	}
}

// TestFetch_certificatesAreVerified: a client that does not know the server's authority gets no keys.
func TestFetch_certificatesAreVerified(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, keySetOf(s.jwk(t, testKeyID, nil)))
	}))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for name, test := range map[string]struct {
		client *http.Client
		want   error
	}{"known authority": {secure.Client(), nil}, "unknown authority": {nil, tenantdb.ErrAuthUnavailable}} {
		c := testConfig("ES256")
		c.JWKSURL, c.HTTPClient = secure.URL, test.client
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		verifies(t, a, name, s.token(t, nil), test.want)
	}
}

// TestFetch_whatAServerSendsIsNotQuoted has the issuer's server put a canary wherever net/http would repeat
// it.
func TestFetch_whatAServerSendsIsNotQuoted(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{
		"a malformed redirect": "HTTP/1.1 302 Found\r\nLocation: http://[" + canary +
			"\r\nContent-Length: 0\r\n\r\n",
		"a malformed header": "HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n",
		"a malformed status": "HTTP/1.1 " + canary + "\r\n\r\n",
		"no HTTP at all":     canary + "\r\n",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = http.ReadRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, reply)
				_ = conn.Close()
			}
		}()
		c := testConfig("ES256")
		c.JWKSURL = "http://" + l.Addr().String() + "/keys"
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		s := newSigner(t, "ES256")
		_, err = a.Authenticate(request(s.token(t, nil)))
		if !errors.Is(err, tenantdb.ErrAuthUnavailable) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
