package jwtauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb"
)

// verifies fails the test unless verifying the token ends in want; nil means that it is accepted.
func verifies(t *testing.T, a *Authenticator, what, token string, want error) {
	t.Helper()
	if _, err := a.Verify(t.Context(), token); !errors.Is(err, want) || (want == nil) != (err == nil) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestRemoteKeys_areFetchedOnce(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
	a := newRemoteFixture(t, server, nil)
	if n := server.fetches(); n != 0 {
		t.Errorf("New fetches %d times", n)
	}
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { verifies(t, a, "a token among many", s.token(t, nil), nil) })
	}
	group.Wait()
	if n := server.fetches(); n != 1 {
		t.Errorf("%d fetches for 50 requests at once", n)
	}
}

// TestRemoteKeys_rotation rolls the key over as issuers do: both for a while, then the new one alone.
func TestRemoteKeys_rotation(t *testing.T) {
	t.Parallel()
	clock := newClock()
	first, second := newSigner(t, "ES256"), newSigner(t, "ES256")
	server := newKeyServer(t, keySetOf(first.jwk(t, "first", nil)))
	a := newRemoteFixture(t, server, func(c *Config) { c.Now = clock.Now })
	oldToken, newToken := first.named(t, "first", nil), second.named(t, "second", nil)
	verifies(t, a, "first key", oldToken, nil)

	server.serve(keySetOf(first.jwk(t, "first", nil), second.jwk(t, "second", nil)))
	clock.advance(fetchGap)
	verifies(t, a, "new key at first use", newToken, nil)
	verifies(t, a, "old key beside it", oldToken, nil)
	if n := server.fetches(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	identity, err := kept(t, a, oldToken)
	if err != nil {
		t.Fatal(err)
	}

	clock.advance(15 * time.Minute)
	verifies(t, a, "old key, seen by the refresh that is due", oldToken, nil)
	settle(a)
	if again, err := kept(t, a, oldToken); err != nil || again == identity {
		t.Errorf("after a minute an entry must be made anew: %v", err)
	}
	identity, _ = kept(t, a, oldToken)
	server.serve(keySetOf(second.jwk(t, "second", nil)))
	clock.advance(fetchGap)
	if again, err := kept(t, a, oldToken); err != nil || again != identity {
		t.Errorf("the token is not cached when its key goes: %v", err)
	}
	verifies(t, a, "a third key", second.named(t, "third", nil), errUnknownKey) // makes a fetch
	verifies(t, a, "cached token of a removed key", oldToken, errUnknownKey)
	verifies(t, a, "the key that stays", newToken, nil)
}

// TestRemoteKeys_refreshKeepsCachedTokens of keys that stay, and drops those of a key that changes under its
// name.
func TestRemoteKeys_refreshKeepsCachedTokens(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s, other := newSigner(t, "ES256"), newSigner(t, "ES256")
	server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
	a := newRemoteFixture(t, server, func(c *Config) { c.Now, c.KeyRefresh = clock.Now, leastRefresh })
	verifies(t, a, "at first", s.token(t, nil), nil)
	token := s.token(t, map[string]any{"jti": "kept"})
	identity, err := kept(t, a, token)
	if err != nil {
		t.Fatal(err)
	}
	refresh := func() {
		clock.advance(leastRefresh)
		if _, err := a.Verify(t.Context(), token); err != nil {
			t.Error(err)
		}
		settle(a)
	}
	refresh()
	if again, _ := kept(t, a, token); again != identity || server.fetches() != 2 {
		t.Errorf("after a refresh (%d fetches) the entry is gone", server.fetches())
	}
	server.serve(keySetOf(other.jwk(t, testKeyID, nil)))
	refresh()
	verifies(t, a, "token of a key that changed", token, errSignature)
	verifies(t, a, "token of the key in its place", other.token(t, nil), nil)
}

// TestRemoteKeys_randomKidsCauseAFetchEachGap sends a thousand made-up kids in a second, at a slow issuer.
// Fetches stay fetchGap apart, nobody waits for more than two of them, and known kids wait for none.
func TestRemoteKeys_randomKidsCauseAFetchEachGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slow = 300 * time.Millisecond
		s := newSigner(t, "ES256")
		document := keySetOf(s.jwk(t, testKeyID, nil))
		// by one goroutine at a time, which is what is tested: the race detector watches
		var fetched []time.Time
		client := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			fetched = append(fetched, time.Now())
			time.Sleep(slow)
			return answerOf(document), nil
		})}
		a := remoteAuthenticator(t, client)
		lasting := map[string]any{"iat": nil, "nbf": nil, "exp": 4102444800}
		verifies(t, a, "a good token", s.token(t, lasting), nil)
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				arrived := time.Now()
				verifies(t, a, "a random kid", s.named(t, fmt.Sprintf("kid-%d", i), lasting), errUnknownKey)
				if waited := time.Since(arrived); waited > 2*(fetchGap+slow) {
					t.Errorf("kid %d waited %v", i, waited)
				}
			})
			group.Go(func() {
				arrived := time.Now()
				verifies(t, a, "a known kid meanwhile",
					s.token(t, map[string]any{"iat": nil, "nbf": nil, "exp": 4102444800, "jti": i}), nil)
				if waited := time.Since(arrived); waited > 0 {
					t.Errorf("a known kid waited %v", waited)
				}
			})
		}
		group.Wait()
		for i := 1; i < len(fetched); i++ {
			if gap := fetched[i].Sub(fetched[i-1]); gap < fetchGap {
				t.Errorf("fetches %d and %d are %v apart", i-1, i, gap)
			}
		}
		if n := len(fetched); n > 4 {
			t.Errorf("%d fetches for a thousand random kids in a second", n)
		}
	})
}

// TestRemoteKeys_unknownKidsDoNotDelayANewKey lets somebody send made-up kids all the time while the issuer
// publishes a new key. The first token of the new key waits for one fetch and is accepted, wherever in the
// gap it arrives.
func TestRemoteKeys_unknownKidsDoNotDelayANewKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slow = 300 * time.Millisecond
		old, fresh := newSigner(t, "ES256"), newSigner(t, "ES256")
		var document atomic.Value
		client := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			read := document.Load().(string) // as the issuer has it when the fetch begins
			time.Sleep(slow)
			return answerOf(read), nil
		})}
		lasting := map[string]any{"iat": nil, "nbf": nil, "exp": 4102444800}
		for at := time.Duration(0); at < 2*time.Second; at += 50 * time.Millisecond {
			document.Store(keySetOf(old.jwk(t, "old", nil)))
			a := remoteAuthenticator(t, client)
			ctx, stop := context.WithCancel(t.Context())
			var group sync.WaitGroup
			for range 5 {
				group.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						_, _ = a.Verify(ctx, old.named(t, fmt.Sprintf("made-up-%d", i), lasting))
						time.Sleep(time.Millisecond)
					}
				})
			}
			time.Sleep(3*time.Second + at)
			document.Store(keySetOf(old.jwk(t, "old", nil), fresh.jwk(t, "new", nil)))
			arrived := time.Now()
			verifies(t, a, fmt.Sprintf("the new key, published %v on", at),
				fresh.named(t, "new", lasting), nil)
			if waited := time.Since(arrived); waited > 2*slow+fetchGap {
				t.Errorf("the new key's token waited %v", waited)
			}
			stop()
			group.Wait()
		}
	})
}

// remoteAuthenticator makes an authenticator whose keys a client fetches, by the machine's clock.
func remoteAuthenticator(t *testing.T, client *http.Client) *Authenticator {
	t.Helper()
	c := testConfig("ES256")
	c.Now, c.JWKSURL, c.HTTPClient = nil, "https://issuer.example/keys", client
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestRemoteKeys_coldRandomKidsShareFetches: where no key was ever fetched, random kids that come at once
// share one fetch, and those that come while it goes on share the next. While the issuer is down there is
// only one.
func TestRemoteKeys_coldRandomKidsShareFetches(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]error{http.StatusOK: errUnknownKey,
		http.StatusBadGateway: tenantdb.ErrAuthUnavailable} {
		s := newSigner(t, "ES256")
		server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
		if status != http.StatusOK {
			server.fail(status)
		}
		a := newRemoteFixture(t, server, nil)
		var group sync.WaitGroup
		for i := range 200 {
			token := s.named(t, fmt.Sprint(i), nil)
			group.Go(func() { verifies(t, a, "a random kid", token, want) })
		}
		group.Wait()
		if n := server.fetches(); n > 2 || n != 1 && status != http.StatusOK {
			t.Errorf("status %d: %d fetches", status, n)
		}
	}
}

// TestRemoteKeys_issuerDown: cached keys serve to their maximum age, then the answer is 503 and not 401, and
// all is well when it is back.
func TestRemoteKeys_issuerDown(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := newSigner(t, "ES256")
	document := keySetOf(s.jwk(t, testKeyID, nil))
	server := newKeyServer(t, document)
	a := newRemoteFixture(t, server, func(c *Config) {
		c.Now, c.KeyRefresh, c.KeyMaxAge = clock.Now,
			time.Minute, time.Hour
	})
	day := map[string]any{"exp": testNow.Add(24 * time.Hour).Unix()}
	verifies(t, a, "at first", s.token(t, day), nil)
	for name, down := range map[string]func(){
		"status":        func() { server.fail(http.StatusInternalServerError) },
		"empty object":  func() { server.serve(`{}`) },
		"empty set":     func() { server.serve(`{"keys":[]}`) },
		"no usable key": func() { server.serve(`{"keys":[{"kty":"oct","k":"AAAA"}]}`) },
		"not JSON":      func() { server.serve(`<html>`) },
	} {
		down()
		clock.advance(5 * time.Minute)
		verifies(t, a, name+": refresh is due", s.token(t, day), nil)
		settle(a)
		verifies(t, a, name+": known key", s.token(t, map[string]any{"exp": day["exp"], "jti": name}), nil)
		verifies(t, a, name+": unknown key", s.named(t, "new", day), tenantdb.ErrAuthUnavailable)
	}
	clock.advance(time.Hour - 25*time.Minute - time.Second)
	last := s.token(t, map[string]any{"exp": day["exp"], "jti": "last"})
	verifies(t, a, "a second before the maximum age", last, nil)
	settle(a)
	clock.advance(time.Second)
	verifies(t, a, "cached token at the maximum age", last, tenantdb.ErrAuthUnavailable)
	verifies(t, a, "other token at the maximum age", s.token(t, day), tenantdb.ErrAuthUnavailable)
	settle(a)
	server.serve(document)
	clock.advance(retryAfter + time.Second)
	verifies(t, a, "the issuer is back", last, nil)
}

// TestRemoteKeys_failedStartIsRetriedSoon: a failed fetch is tried again after retryAfter.
func TestRemoteKeys_failedStartIsRetriedSoon(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, "")
	server.fail(http.StatusServiceUnavailable)
	a := newRemoteFixture(t, server, func(c *Config) { c.Now = clock.Now })
	verifies(t, a, "down", s.token(t, nil), tenantdb.ErrAuthUnavailable)
	server.serve(keySetOf(s.jwk(t, testKeyID, nil)))
	clock.advance(retryAfter - time.Second)
	verifies(t, a, "too early to ask again", s.token(t, nil), tenantdb.ErrAuthUnavailable)
	clock.advance(2 * time.Second) // the pause runs from the failure, a moment after the clock's time
	verifies(t, a, "up", s.token(t, nil), nil)
	if n := server.fetches(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

// TestRemoteKeys_keysPastTheirAgeAreFetchedSoonAfterAnOutage: then, too, nothing can be verified meanwhile.
func TestRemoteKeys_keysPastTheirAgeAreFetchedSoonAfterAnOutage(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
	a := newRemoteFixture(t, server, func(c *Config) {
		c.Now, c.KeyRefresh, c.KeyMaxAge = clock.Now,
			time.Minute, time.Hour
	})
	far := s.token(t, map[string]any{"exp": clock.Now().Add(24 * time.Hour).Unix()})
	verifies(t, a, "up", far, nil)
	server.fail(http.StatusServiceUnavailable)
	clock.advance(2 * time.Hour)
	verifies(t, a, "down for too long", far, tenantdb.ErrAuthUnavailable)
	server.serve(keySetOf(s.jwk(t, testKeyID, nil)))
	clock.advance(retryAfter + time.Second)
	verifies(t, a, "up again", far, nil)
}

// TestRemoteKeys_aHangingIssuerIsAskedOnceAndThenFailsFast: a client that doesn't end with its context holds
// nobody for ever either.
func TestRemoteKeys_aHangingIssuerIsAskedOnceAndThenFailsFast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(t, "EdDSA")
		release := make(chan struct{})
		var asked atomic.Int64
		c := testConfig("EdDSA")
		c.JWKSURL, c.Now = "https://issuer.example/keys", time.Now
		c.HTTPClient = &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			asked.Add(1)
			<-release
			return nil, errors.New("too late")
		})}
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		token := s.token(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix(), "nbf": nil, "iat": nil})
		for i := range 3 {
			began := time.Now()
			if _, err := a.Verify(context.Background(), token); !errors.Is(err, tenantdb.ErrAuthUnavailable) {
				t.Errorf("Verify = %v", err)
			}
			if took := time.Since(began); i > 0 && took > 0 {
				t.Errorf("within the pause it took %v", took)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("%d fetches; want 1", n)
		}
		close(release)
	})
}

// TestRemoteKeys_clockSetBack must not make keys young for ever, nor hold up the next fetch.
func TestRemoteKeys_clockSetBack(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
	a := newRemoteFixture(t, server, func(c *Config) { c.Now = clock.Now })
	timeless := map[string]any{"iat": nil, "nbf": nil, "exp": 4102444800}
	token := s.token(t, timeless)
	verifies(t, a, "at first", token, nil)
	server.serve(keySetOf(newSigner(t, "ES256").jwk(t, testKeyID, nil)))
	clock.advance(-time.Hour)
	verifies(t, a, "an hour earlier, a refresh is due", token, nil)
	settle(a)
	verifies(t, a, "an hour earlier, refreshed", token, errSignature)
}

// TestRemoteKeys_fetchHasItsOwnTimeout: a silent issuer holds nobody longer than that, and a caller who
// leaves takes nobody along.
func TestRemoteKeys_fetchHasItsOwnTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(t, "ES256")
		client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		c := testConfig("ES256")
		c.JWKSURL, c.HTTPClient = "https://issuer.example/keys", client
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var group sync.WaitGroup
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := a.Verify(ctx, s.token(t, nil)); !errors.Is(err, tenantdb.ErrAuthUnavailable) ||
				time.Since(began) != time.Second {
				t.Errorf("who leaves after a second: %v after %v", err, time.Since(began))
			}
		})
		group.Go(func() {
			verifies(t, a, "who stays", s.token(t, nil), tenantdb.ErrAuthUnavailable)
			if time.Since(began) != fetchTimeout {
				t.Errorf("who stays waits %v", time.Since(began))
			}
		})
		group.Wait()
		// synctest fails the test if a goroutine is left.
	})
}

// TestRemoteKeys_clientPanics must not end the process: no handler recovers on the fetch's goroutine.
func TestRemoteKeys_clientPanics(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, "")
	a := newRemoteFixture(t, server, func(c *Config) {
		c.HTTPClient = &http.Client{Transport: transport(func(*http.Request) (*http.Response,
			error) {
			panic("transport")
		})}
	})
	verifies(t, a, "panic", s.token(t, nil), tenantdb.ErrAuthUnavailable)
}

// TestRemoteKeys_badKeysAreSkippedOneByOne in a fetched set, and a symmetric one is bad there.
func TestRemoteKeys_badKeysAreSkippedOneByOne(t *testing.T) {
	t.Parallel()
	s, twin := newSigner(t, "ES256"), newSigner(t, "ES256")
	secret := newSigner(t, "HS256")
	server := newKeyServer(t, keySetOf(`null`, `1`, `{}`, `{"kty":"EC","kty":"EC"}`,
		secret.jwk(t, "secret", nil),
		twin.jwk(t, "twin", nil), twin.jwk(t, "twin", nil), twin.jwk(t, "enc", map[string]any{"use": "enc"}),
		s.jwk(t, testKeyID, nil)))
	a := newRemoteFixture(t, server, nil)
	verifies(t, a, "the good one", s.token(t, nil), nil)
	verifies(t, a, "two of a name", twin.named(t, "twin", nil), errUnknownKey)
	verifies(t, a, "for encryption", twin.named(t, "enc", nil), errUnknownKey)
	verifies(t, a, "symmetric", secret.named(t, "secret", nil), errAlgorithm)
	verifies(t, a, "no kid, one usable key", s.named(t, "", nil), nil)
}

// transport is an http.RoundTripper in one function.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answerOf(document string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(document)),
		Header: http.Header{}}
}
