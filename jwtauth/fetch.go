package jwtauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// fetchTimeout bounds a fetch from the first dial to the last byte, discovery included.
	fetchTimeout = 5 * time.Second
	// maxDocumentBytes bounds what a fetch reads, after decompression.
	maxDocumentBytes = 1 << 20
	// maxRedirects bounds the redirects of a fetch.
	maxRedirects = 3
)

// fetcher fetches an issuer's JWK set.
type fetcher struct {
	client *http.Client
	// address is the address of the set or, if issuer is set, of the discovery document.
	address *url.URL
	issuer  string
}

// newFetcher checks JWKSURL, or derives the address of the discovery document from Issuer.
func newFetcher(c IssuerConfig, client *http.Client) (fetcher, error) {
	field, address, issuer := "JWKSURL", c.JWKSURL, ""
	if c.Discover {
		field, address, issuer = "Discover",
			strings.TrimSuffix(c.Issuer, "/")+"/.well-known/openid-configuration", c.Issuer
	}
	u, err := parseAddress(address)
	if err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		err = errors.New("http is for loopback hosts only: use https")
	}
	if err != nil {
		return fetcher{}, fmt.Errorf("%s: %w", field, err)
	}
	own := &http.Client{}
	if client != nil {
		*own = *client
	}
	own.CheckRedirect = checkRedirect
	return fetcher{client: own, address: u, issuer: issuer}, nil
}

// parseAddress parses an absolute address without user, password or fragment. Its errors don't quote it.
func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("not an absolute https address")
	}
	if u.User != nil || u.Fragment != "" {
		return nil, errors.New("an address with a user, a password or a fragment")
	}
	return u, nil
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkRedirect refuses a redirect that leaves the host or falls back to http. The configuration trusts one
// host, not those that it names.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return redirectError("too many redirects")
	case !strings.EqualFold(next.URL.Host, first.Host):
		return redirectError("a redirect to another host")
	case next.URL.Scheme != "https" && next.URL.Scheme != first.Scheme:
		return redirectError("a redirect away from https")
	}
	return nil
}

// fetch returns the JWK set's text.
func (f *fetcher) fetch(ctx context.Context) ([]byte, error) {
	if f.issuer == "" {
		return f.get(ctx, f.address)
	}
	text, err := f.get(ctx, f.address)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	address, err := f.discovered(text)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	return f.get(ctx, address)
}

// discovered returns the address of the JWK set from a discovery document, which must be our issuer's (OpenID
// Connect Discovery 1.0, section 4.3). An issuer on https can't name an address on http.
func (f *fetcher) discovered(text []byte) (*url.URL, error) {
	document, _, err := decodeObject(string(text))
	if err != nil {
		return nil, err
	}
	if document["issuer"] != f.issuer {
		return nil, errors.New("the document is another issuer's")
	}
	address, _ := document["jwks_uri"].(string)
	u, err := parseAddress(address)
	if err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	if u.Scheme == "http" && (f.address.Scheme != "http" || !isLoopback(u.Hostname())) {
		return nil, errors.New("jwks_uri is not https")
	}
	return u, nil
}

// get returns the body of a 200 answer. Its errors name the host, and neither path nor query.
func (f *fetcher) get(ctx context.Context, address *url.URL) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, errors.New("no request can be made for the address")
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	r.Close = true // the next fetch is minutes away: no connection idles till then
	answer, err := f.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s can't be asked: %w", address.Host, causeOf(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers with status %d", address.Host, answer.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDocumentBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s breaks off: %w", address.Host, causeOf(err))
	}
	if len(body) > maxDocumentBytes {
		return nil, fmt.Errorf("%s sends more than %d bytes", address.Host, maxDocumentBytes)
	}
	return body, nil
}

// redirectError is why a redirect is not followed.
type redirectError string

// Error implements error.
func (e redirectError) Error() string { return string(e) }

// causeOf returns a fixed text for why a request failed. Errors of net/http quote addresses and what a server
// sent.
func causeOf(err error) error {
	var redirect redirectError
	var timeout net.Error
	var connection *net.OpError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &redirect):
		return redirect
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("no answer in time")
	case errors.As(err, &name):
		return errors.New("its name is not known")
	case errors.As(err, &certificate):
		return errors.New("its certificate is not trusted")
	case errors.As(err, &connection):
		return errors.New("no connection, or a broken one")
	}
	return errors.New("no proper answer")
}
