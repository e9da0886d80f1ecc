package jwtauth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb"
)

// issuerModel is an issuer, and what an observer of it may demand of an authenticator. It knows nothing of
// how keys are kept.
type issuerModel struct {
	published []int
	up        bool
	// attempts are the fetches so far, latest last.
	attempts []attempt
}

// attempt is a fetch: when, and which keys it saw; nil where it failed.
type attempt struct {
	at   time.Time
	keys []int
	ok   bool
}

// What the model's authenticator is configured with.
const (
	modelRefresh = 2 * time.Minute
	modelMaxAge  = 10 * time.Minute
)

// latestGood returns the last fetch that succeeded.
func (m *issuerModel) latestGood() (attempt, bool) {
	for _, a := range slices.Backward(m.attempts) {
		if a.ok {
			return a, true
		}
	}
	return attempt{}, false
}

// mayFetch reports whether no fetch failed within retryAfter.
func (m *issuerModel) mayFetch() bool {
	if len(m.attempts) == 0 {
		return true
	}
	last := m.attempts[len(m.attempts)-1]
	return last.ok || time.Since(last.at) >= retryAfter
}

// check compares a verdict about a token of a key with what must hold, given the attempts up to and after it.
func (m *issuerModel) check(t *rapid.T, key int, err error, before int, wasDue bool) {
	latest, known := m.latestGood()
	fresh := known && time.Since(latest.at) < modelMaxAge
	listed := fresh && slices.Contains(latest.keys, key)
	// Where a refresh runs in the background, the verdict may be that of the snapshot before it.
	background := len(m.attempts) > before
	failing := len(m.attempts) > 0 && !m.attempts[len(m.attempts)-1].ok
	switch {
	case err == nil && !listed && !background:
		t.Fatalf("key %d is accepted; fetched %v", key, m.attempts)
	case err != nil && listed && !background:
		t.Fatalf("key %d is refused (%v); fetched %v", key, err, m.attempts)
	case errors.Is(err, tenantdb.ErrAuthUnavailable) && !failing:
		t.Fatalf("key %d can't be judged, though no fetch fails: %v", key, err)
	case errors.Is(err, tenantdb.ErrInvalidCredential) && !fresh:
		t.Fatalf("key %d is refused by keys past their age: %v", key, err)
	case err != nil && m.up && wasDue && slices.Contains(m.published, key):
		t.Fatalf("key %d is published, the issuer is up and no fetch failed lately: %v", key, err)
	case err != nil && !errors.Is(err, tenantdb.ErrAuthUnavailable) && !errors.Is(err, errUnknownKey):
		t.Fatalf("key %d: %v", key, err)
	}
}

// checkPace fails if fetches follow each other too fast.
func (m *issuerModel) checkPace(t *rapid.T) {
	for i := 1; i < len(m.attempts); i++ {
		least := fetchGap
		if !m.attempts[i-1].ok {
			least = retryAfter
		}
		if pause := m.attempts[i].at.Sub(m.attempts[i-1].at); pause < least {
			t.Fatalf("fetches %v apart, at least %v are due", pause, least)
		}
	}
}

// TestRemoteKeys_againstModel lets an issuer rotate, fail and come back at random, and holds every verdict
// against the model.
func TestRemoteKeys_againstModel(t *testing.T) {
	t.Parallel()
	const keys = 4
	var signers [keys]*signer
	var jwks [keys]string
	for i := range signers {
		signers[i] = newSigner(t, "EdDSA")
		jwks[i] = signers[i].jwk(t, fmt.Sprint(i), nil)
	}
	synctest.Test(t, func(t *testing.T) {
		// rapid asks a *testing.T for its deadline, which a bubble forbids
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
			m := &issuerModel{published: []int{0}, up: true}
			client := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
				m.attempts = append(m.attempts,
					attempt{at: time.Now(), keys: slices.Clone(m.published), ok: m.up &&
						len(m.published) > 0})
				if !m.up {
					return nil, errors.New("down")
				}
				var listed []string
				for _, i := range m.published {
					listed = append(listed, jwks[i])
				}
				return answerOf(keySetOf(strings.Join(listed, ","))), nil
			})}
			c := testConfig("EdDSA")
			c.JWKSURL, c.HTTPClient, c.KeyRefresh, c.KeyMaxAge = "https://issuer.example/keys", client,
				modelRefresh, modelMaxAge
			c.Now = nil // the bubble's clock
			a, err := New(c)
			if err != nil {
				rt.Fatal(err)
			}
			tokens := [keys]string{}
			for i, s := range signers {
				tokens[i] = s.named(t, fmt.Sprint(i),
					map[string]any{"iat": nil, "nbf": nil, "exp": 4102444800})
			}
			rt.Repeat(map[string]func(*rapid.T){
				"advance": func(rt *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 400_000).Draw(rt,
						"milliseconds")) * time.Millisecond)
				},
				"publish": func(rt *rapid.T) {
					m.published = rapid.SliceOfNDistinct(rapid.IntRange(0, keys-1), 0, keys,
						rapid.ID).Draw(rt, "keys")
				},
				"break": func(*rapid.T) { m.up = false },
				"mend":  func(*rapid.T) { m.up = true },
				"verify": func(rt *rapid.T) {
					key := rapid.IntRange(0, keys-1).Draw(rt, "key")
					before, due := len(m.attempts), m.mayFetch()
					_, err := a.Verify(t.Context(), tokens[key])
					settle(a)
					m.check(rt, key, err, before, due)
				},
				"": func(rt *rapid.T) { m.checkPace(rt) },
			})
		})
	})
}
