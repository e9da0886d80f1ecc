package jwtauth

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb"
)

// TestTokenCache_hitsShareOneIdentity, also where the first requests of a token come together.
func TestTokenCache_hitsShareOneIdentity(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", nil)
	token := s.token(t, nil)
	var mu sync.Mutex
	identities := make(map[*tenantdb.Identity]int)
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			identity, err := a.Authenticate(request(strings.Clone(token)))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			identities[identity]++
		})
	}
	group.Wait()
	if len(identities) != 1 {
		t.Errorf("%d identities for one token", len(identities))
	}
	cache := newTokenCache(CacheConfig{Entries: 1, Bytes: 1 << 20})
	entry := func() *cacheEntry {
		return &cacheEntry{issuer: &issuer{keys: staticKeys{}}, from: testNow.UnixNano(),
			until: testNow.Add(time.Minute).UnixNano()}
	}
	if first := cache.add("t", entry(), testNow); first == nil || cache.add("t", entry(), testNow) != first {
		t.Error("the second of two verifications at once takes the place of the first")
	}
	other, _ := newFixture(t, "HS256", nil)
	refuses(t, other, "a token cached elsewhere", token, errSignature)
}

// TestTokenCache_hitsCheckTheClock on every request: exp, the age of the entry, and a clock set back.
func TestTokenCache_hitsCheckTheClock(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		expires, step time.Duration
		leeway        time.Duration
		hit           bool
		want          error
	}{
		"at once":             {time.Hour, 0, 0, true, nil},
		"a second before exp": {30 * time.Second, 29 * time.Second, 0, true, nil},
		"at exp":              {30 * time.Second, 30 * time.Second, 0, false, jwt.ErrTokenExpired},
		"after exp":           {30 * time.Second, time.Hour, 0, false, jwt.ErrTokenExpired},
		"within the leeway":   {10 * time.Second, 14 * time.Second, 5 * time.Second, true, nil},
		"past the leeway": {10 * time.Second, 15 * time.Second, 5 * time.Second, false,
			jwt.ErrTokenExpired},
		"entry nearly a minute":    {time.Hour, 59 * time.Second, 0, true, nil},
		"entry a minute":           {time.Hour, time.Minute, 0, false, nil},
		"clock set back a little":  {time.Hour, -time.Second, 0, false, nil},
		"clock set back before it": {time.Hour, -time.Hour, 0, false, jwt.ErrTokenNotValidYet},
	} {
		clock := newClock()
		a, s := newFixture(t, "HS256", func(c *Config) { c.Now, c.Leeway = clock.Now, test.leeway })
		token := s.token(t, map[string]any{"exp": testNow.Add(test.expires).Unix()})
		first, err := kept(t, a, token)
		if err != nil {
			t.Fatal(err)
		}
		clock.advance(test.step)
		verifies(t, a, name, token, test.want)
		if again, _ := kept(t, a, token); test.want == nil && (again == first) != test.hit {
			t.Errorf("%s: hit %t, want %t", name, again == first, test.hit)
		}
	}
}

// TestTokenCache_onlyTheWholeTokenHits: neither a prefix nor one that differs in a single character.
func TestTokenCache_onlyTheWholeTokenHits(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "EdDSA", nil)
	token := s.token(t, nil)
	verifies(t, a, "the token", token, nil)
	for i := range len(token) {
		c := byte('A')
		if token[i] == c {
			c = 'B'
		}
		if identity, err := a.Verify(t.Context(), token[:i]+string(c)+token[i+1:]); err == nil {
			t.Fatalf("position %d changed: %v", i, identity)
		}
		if identity, err := a.Verify(t.Context(), token[:i]); err == nil {
			t.Fatalf("cut at %d: %v", i, identity)
		}
	}
}

// TestTokenCache_doesNotKeepTheRequest: the token is part of a string that holds all headers.
func TestTokenCache_doesNotKeepTheRequest(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", nil)
	token := s.token(t, nil)
	verifies(t, a, "the token", token, nil)
	kept := a.state.cache.shard(token).entries.Keys()
	if len(kept) != 1 || kept[0] != token || unsafe.StringData(kept[0]) == unsafe.StringData(token) {
		t.Error("the cache holds on to the caller's string")
	}
}

// TestTokenCache_refusedTokensAreNotKept, of whatever kind.
func TestTokenCache_refusedTokensAreNotKept(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", func(c *Config) { c.Scopes = []string{"read"} })
	for i := range 100 {
		a.Verify(t.Context(), s.token(t, map[string]any{"jti": i}))
		a.Verify(t.Context(), newSigner(t, "HS256").token(t, map[string]any{"jti": i, "scope": "read"}))
	}
	if n, _ := a.state.cache.size(); n != 0 {
		t.Errorf("%d refused tokens are kept", n)
	}
}

func TestTokenCache_disabled(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", func(c *Config) { c.Cache.Disabled = true })
	token := s.token(t, nil)
	first, err := kept(t, a, token)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.Verify(t.Context(), token); err != nil || again == first {
		t.Errorf("one identity twice without a cache: %v", err)
	}
}

// size returns the number of entries and their cost, recounted.
func (t *tokenCache) size() (entries, bytes int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		entries += s.entries.Len()
		for _, token := range s.entries.Keys() {
			e, _ := s.entries.Peek(token)
			bytes += e.cost(token)
		}
		s.mu.Unlock()
	}
	return entries, bytes
}

// TestTokenCache_keepsItsBounds whatever comes, and counts right: the recount is the oracle.
func TestTokenCache_keepsItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := CacheConfig{Entries: rapid.IntRange(1, 300).Draw(t, "entries"),
			Bytes: rapid.IntRange(1, 2_000_000).Draw(t, "bytes")}
		cache := newTokenCache(c)
		issuer := &issuer{keys: staticKeys{}}
		now := testNow
		model := make(map[string]*tenantdb.Identity) // the identity last handed out
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			token := fmt.Sprintf("%d.%s", rapid.IntRange(0, 400).Draw(t, "token"),
				strings.Repeat("x", rapid.IntRange(0, 3).Draw(t, "length")*1000))
			if identity := cache.get(token, now); identity != nil && identity != model[token] {
				t.Fatalf("%.8s has another's identity", token)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "pass")) * time.Second)
			e := &cacheEntry{issuer: issuer, from: now.UnixNano(), until: now.Add(time.Minute).UnixNano(),
				size: uint32(rapid.IntRange(0, 10_000).Draw(t, "size"))}
			model[token] = cache.add(token, e, now)
			entries, bytes := cache.size()
			if entries > c.Entries || bytes > c.Bytes {
				t.Fatalf("%d entries of %d bytes, at most %d of %d", entries, bytes, c.Entries, c.Bytes)
			}
			if n := cache.kept.Load(); n != int64(entries) {
				t.Fatalf("%d entries are counted, %d are there", n, entries)
			}
			front := *cache.lookup.Load()
			for i := range front {
				if e := front[i].Load(); e != nil {
					if kept, _ := cache.shard(e.token).entries.Peek(e.token); kept != e {
						t.Fatalf("the front keeps %.8s, which its shard does not", e.token)
					}
				}
			}
			counted := 0
			for i := range cache.shards {
				counted += cache.shards[i].bytes
			}
			if counted != bytes {
				t.Fatalf("%d bytes are counted, %d are there", counted, bytes)
			}
		}
	})
}

// TestTokenCache_lookupGrows with what is kept, to twice as many slots, and not beyond its bound.
func TestTokenCache_lookupGrows(t *testing.T) {
	t.Parallel()
	c := CacheConfig{Entries: 1 << 20}
	if err := c.setDefaults(); err != nil {
		t.Fatal(err)
	}
	cache, issuer := newTokenCache(c), &issuer{keys: staticKeys{}}
	slots := func() int { return len(*cache.lookup.Load()) }
	if n := slots(); n != minSlots {
		t.Errorf("empty: %d slots", n)
	}
	for i := range maxSlots {
		token := fmt.Sprint("token ", i)
		e := &cacheEntry{issuer: issuer, from: testNow.UnixNano(), until: testNow.Add(time.Minute).UnixNano()}
		cache.add(token, e, testNow)
		switch n := slots(); {
		case cache.get(token, testNow) != e.kept.Identity():
			t.Fatalf("%q is not found", token)
		case cache.slot(token).Load() != e:
			t.Fatalf("the front doesn't lead to %q", token)
		case n < 2*(i+1) && n < maxSlots, n > max(minSlots, 4*(i+1)), n > maxSlots:
			t.Fatalf("%d slots for %d tokens", n, i+1)
		}
	}
}

// TestTokenCache_shards: room for 64 entries in each, a power of two of them, each a multiple of two cache
// lines, evenly used.
func TestTokenCache_shards(t *testing.T) {
	t.Parallel()
	for bounds, want := range map[[2]int]int{
		{1}: 1, {64}: 1, {127}: 1, {128}: 2, {1000}: 8, {}: 64, {1_000_000}: 64,
		{10_000, 1}: 1, {10_000, 512<<10 - 1}: 1, {10_000, 512 << 10}: 2, {128, 1 << 30}: 2,
	} {
		c := CacheConfig{Entries: bounds[0], Bytes: bounds[1]}
		if err := c.setDefaults(); err != nil {
			t.Fatal(err)
		}
		if n := len(newTokenCache(c).shards); n != want {
			t.Errorf("%v: %d shards, want %d", bounds, n, want)
		}
	}
	if size := unsafe.Sizeof(cacheShard{}); size%128 != 0 {
		t.Errorf("a shard has %d bytes, and shares a cache line with the next", size)
	}
	a, s := newFixture(t, "HS256", nil)
	uses := make(map[*cacheShard]int)
	for i := range 6400 {
		uses[a.state.cache.shard(s.token(t, map[string]any{"jti": i}))]++
	}
	for shard, n := range uses {
		if n < 50 || n > 170 {
			t.Errorf("shard %p has %d of 6400 tokens", shard, n)
		}
	}
}

// TestTokenCache_costIsNoUnderestimate measures what entries of several shapes really take.
func TestTokenCache_costIsNoUnderestimate(t *testing.T) {
	for name, changes := range map[string]map[string]any{
		"usual":          nil,
		"large strings":  {"x": strings.Repeat("x", 8000)},
		"many numbers":   {"x": make([]int, 1300)},
		"many arrays":    {"x": make([][0]int, 1300)},
		"many objects":   {"x": make([]struct{}, 300)},
		"objects of one": {"x": make([]struct{ A int }, 240)},
	} {
		a, s := newFixture(t, "HS256", func(c *Config) { c.Cache.Bytes = 1 << 30 })
		const n = 50
		tokens := make([]string, n)
		for i := range tokens {
			changed := map[string]any{"jti": fmt.Sprint(i)}
			for k, v := range changes {
				changed[k] = v
			}
			tokens[i] = s.token(t, changed)
		}
		before := heapInUse()
		for _, token := range tokens {
			verifies(t, a, name, token, nil)
		}
		grown := heapInUse() - before
		if _, cost := a.state.cache.size(); grown > uint64(cost) {
			t.Errorf("%s: %d entries take %d bytes, the cache counts %d", name, n, grown, cost)
		}
	}
}

// TestTokenCache_hitAllocatesNothing, with the token in the header or in the cookie.
func TestTokenCache_hitAllocatesNothing(t *testing.T) {
	a, s := newFixture(t, "HS256", func(c *Config) { c.Cookie = "session" })
	inHeader, inCookie := request(s.token(t, nil)), request("")
	delete(inCookie.Header, "Authorization")
	inCookie.Header.Set("Cookie", "a=1; session="+s.token(t, nil))
	for name, r := range map[string]func() error{
		"header": func() error { _, err := a.Authenticate(inHeader); return err },
		"cookie": func() error { _, err := a.Authenticate(inCookie); return err },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := r(); err != nil {
				t.Error(err)
			}
		}); n > 0 {
			t.Errorf("a hit by %s costs %v allocations", name, n)
		}
	}
}

// kept returns the identity that the cache keeps of a token, of which Verify returns a copy.
func kept(t *testing.T, a *Authenticator, token string) (*tenantdb.Identity, error) {
	t.Helper()
	identity, _, err := a.state.identify(t.Context(), token)
	return identity, err
}

// TestAuthenticator_Verify_returnsAnIdentityOfTheCallersOwn: what is written into it is in nobody else's.
func TestAuthenticator_Verify_returnsAnIdentityOfTheCallersOwn(t *testing.T) {
	a, s := newFixture(t, "HS256", nil)
	token := s.token(t, map[string]any{"deep": map[string]any{"list": []any{"x"}}})
	for range 2 {
		identity, err := a.Verify(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		list := identity.Claims["deep"].(map[string]any)["list"].([]any)
		if list[0] != "x" || identity.Subject == "other" {
			t.Errorf("the second caller sees what the first wrote: %+v", identity)
		}
		list[0], identity.Subject = "other", "other"
	}
}
