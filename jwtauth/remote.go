package jwtauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// fetchGap is the minimum time between the beginnings of two fetches. A token with an unknown kid waits
	// for a fetch, so the gap also bounds how long made-up kids can delay a new key.
	fetchGap = time.Second
	// retryAfter is the pause after a failed fetch. Tokens that need a fetch are answered at once meanwhile.
	retryAfter = 5 * time.Second
	// leastRefresh is the minimum of Config.KeyRefresh.
	leastRefresh = 30 * time.Second
)

// errKeysTooOld is the reason if no fetch failed, as after a jump of the clock.
var (
	errKeysTooOld = errors.New("the keys are past their greatest age")
	errTooOld     = unavailable(errKeysTooOld)
)

// setRefreshDefaults checks KeyRefresh and KeyMaxAge and sets their defaults.
func (c *Config) setRefreshDefaults() error {
	if c.KeyRefresh == 0 {
		c.KeyRefresh = 15 * time.Minute
	}
	if c.KeyMaxAge == 0 {
		c.KeyMaxAge = 24 * time.Hour
	}
	if c.KeyRefresh < leastRefresh {
		return fmt.Errorf("KeyRefresh must be %v at least, or 0 for the default", leastRefresh)
	}
	if c.KeyMaxAge < c.KeyRefresh {
		return errors.New("KeyMaxAge must not be below KeyRefresh: keys would end before they are fetched " +
			"again")
	}
	return nil
}

// remoteKeys are an issuer's keys, fetched over HTTP. Readers see one immutable snapshot. At most one fetch
// is in flight. It has its own goroutine and timeout, so a caller who leaves does not end it.
type remoteKeys struct {
	fetcher    fetcher
	candidates []*algorithm
	refresh    time.Duration
	maxAge     time.Duration
	logger     *slog.Logger
	snapshot   atomic.Pointer[snapshot]

	// mu guards the fields below. No I/O happens under it.
	mu          sync.Mutex
	flight      *flight
	failure     error
	nextAttempt time.Time
}

// snapshot is a key set with the time as of which it is true: the beginning of its fetch, in wall time. The
// monotonic clock may stand still while the machine sleeps.
type snapshot struct {
	*keySet
	fetched time.Time
}

// age is how long ago the set was fetched. A clock that was set back makes a set old rather than young for
// ever.
func (s *snapshot) age(now time.Time) time.Duration {
	return now.Sub(s.fetched).Abs()
}

// flight is a fetch that is due or under way.
type flight struct {
	begun bool // the issuer may have answered already; guarded by remoteKeys.mu
	done  chan struct{}
	err   error // set before done is closed
}

// newRemoteKeys checks the addresses. It does not fetch.
func newRemoteKeys(c IssuerConfig, allowed []*algorithm, shared *Config) (keySource, error) {
	f, err := newFetcher(c, shared.HTTPClient)
	if err != nil {
		return nil, err
	}
	return &remoteKeys{
		fetcher: f, candidates: allowed, refresh: shared.KeyRefresh, maxAge: shared.KeyMaxAge,
		logger: shared.Logger.With("issuer", c.Issuer),
	}, nil
}

// current returns the snapshot, or nil if it is too old. It starts the next fetch when that is due.
func (s *remoteKeys) current(now time.Time) *snapshot {
	latest := s.snapshot.Load()
	if latest == nil {
		return nil
	}
	age := latest.age(now)
	if age >= s.refresh {
		_, _, _ = s.startFetch(now)
	}
	if age >= s.maxAge {
		return nil
	}
	return latest
}

func (s *remoteKeys) trusts(k *verificationKey, now time.Time) bool {
	return s.current(now) != nil && !k.retired.Load()
}

// find looks in the snapshot first. Only for a kid that is not there, or without a snapshot, does it wait for
// a fetch. A fetch that had begun before find was called may have read the set before the kid was published.
// Then find waits for the next fetch as well.
func (s *remoteKeys) find(ctx context.Context, t *unverified, now time.Time) (*verificationKey, error) {
	if latest := s.current(now); latest != nil {
		k, err := latest.lookup(t.header, t.algorithm)
		if !errors.Is(err, errUnknownKey) {
			return k, err
		}
	}
	for first := true; ; first = false {
		fetch, early, failure := s.startFetch(now)
		if fetch != nil {
			select {
			case <-fetch.done:
				failure = fetch.err
			case <-ctx.Done():
				return nil, unavailable(ctx.Err())
			}
		}
		latest := s.snapshot.Load()
		if latest == nil || latest.age(now) >= s.maxAge {
			return nil, unavailable(cmp.Or(failure, errKeysTooOld))
		}
		k, err := latest.lookup(t.header, t.algorithm)
		switch {
		case !errors.Is(err, errUnknownKey):
			return k, err
		case failure != nil: // the key may be a new one, and nobody can tell
			return nil, unavailable(failure)
		case !early || !first:
			return nil, err
		}
	}
}

// startFetch returns the fetch that is due or under way, or a new one. early reports whether it had begun
// before. Soon after a failure there is no fetch, and startFetch returns that failure.
func (s *remoteKeys) startFetch(now time.Time) (f *flight, early bool, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, s.flight.begun, nil
	}
	wait := s.nextAttempt.Sub(now)
	if wait > 2*retryAfter { // the clock was set back
		wait = 0
	}
	if wait > 0 && s.failure != nil {
		return nil, false, s.failure
	}
	s.flight = &flight{done: make(chan struct{})}
	go s.fetch(s.flight, now, max(0, wait))
	return s.flight, false, nil
}

// fetch updates the key set after a wait and ends the flight, within fetchTimeout whatever the injected
// client does. It logs last, so that nobody waits for a slow log.
func (s *remoteKeys) fetch(f *flight, now time.Time, wait time.Duration) {
	defer func() { _ = recover() }() // the injected logger may panic
	time.Sleep(wait)
	began := now.Add(wait)
	s.mu.Lock()
	f.begun, s.nextAttempt = true, began.Round(0).Add(fetchGap)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	started := time.Now()
	parsed, err := s.loadInTime(ctx)
	s.land(f, began, began.Add(time.Since(started)), parsed.set, err)
	if err != nil {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "jwtauth: keys not fetched", slog.String("cause", err.Error()))
	}
	if n := len(parsed.skipped); n > 0 {
		s.logger.LogAttrs(ctx, slog.LevelDebug, "jwtauth: keys skipped", slog.Int("count", n),
			slog.String("first", parsed.skipped[0].Error()))
	}
}

// loadInTime is load for clients that ignore their context or end their goroutine.
func (s *remoteKeys) loadInTime(ctx context.Context) (parsedKeys, error) {
	type outcome struct {
		parsed parsedKeys
		err    error
	}
	landed := make(chan outcome, 1)
	go func() {
		o := outcome{err: errors.New("the HTTP client did not return")}
		defer func() { landed <- o }()
		o.parsed, o.err = s.load(ctx)
	}()
	late := time.NewTimer(fetchTimeout + time.Second) // a second for the client to notice
	defer late.Stop()
	select {
	case o := <-landed:
		return o.parsed, o.err
	case <-late.C:
		return parsedKeys{}, errors.New("the HTTP client does not return")
	}
}

// land ends a flight with its result.
func (s *remoteKeys) land(f *flight, began, ended time.Time, set *keySet, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.err, s.failure, s.flight = err, err, nil
	if err == nil {
		s.replace(&snapshot{set, began.Round(0)})
	} else {
		s.nextAttempt = ended.Round(0).Add(retryAfter)
	}
	close(f.done)
}

// load fetches and parses the set. A set without a usable key is an error: it would lock everybody out. So is
// a panic of the injected client, which nobody else could recover.
func (s *remoteKeys) load(ctx context.Context) (parsed parsedKeys, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the HTTP client panicked")
		}
	}()
	text, err := s.fetcher.fetch(ctx)
	if err != nil {
		return parsedKeys{}, err
	}
	if parsed, err = parseJWKS(text, s.candidates); err != nil {
		return parsedKeys{}, err
	}
	if len(parsed.set.keys) == 0 {
		err = errors.New("the JWK set has no usable key")
	}
	return parsed, err
}

// replace publishes the next snapshot. A key that is in both keeps its identity, so that the tokens it
// verified stay cached. A key that is gone, or changed under its name, is retired.
func (s *remoteKeys) replace(next *snapshot) {
	if previous := s.snapshot.Load(); previous != nil {
		for _, old := range previous.keys {
			if !next.adopt(old) {
				old.retired.Store(true)
			}
		}
	}
	s.snapshot.Store(next)
}
