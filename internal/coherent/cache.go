// Package coherent is a cache of facts that is told when they change. It knows neither SQL nor HTTP.
//
// A fact is loaded by key and depends on three things: a user, a tenant and the plans that they pay for. Their ids are known only
// once it is loaded, so there is no index from an id to its keys. Instead every change takes the next number of one sequence and
// writes it into a stripe chosen by the changed id; a load remembers the number that was current BEFORE it asked. An entry
// is valid while its stripes hold nothing newer. So a slow load that read the old rows can't be served after the change, and
// two ids that share a stripe only cost a load too many.
//
// How old may a valid entry be? Whoever feeds the changes reports the time at which the last complete look for changes began
// (Polled). An entry that is still valid reflects every change committed before that time, or before its own load began, whichever
// is later; the difference from now is its staleness.
package coherent

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is returned by Get after Close.
var ErrClosed = errors.New("coherent: the cache is closed")

// Config describes a Cache. Every field is needed.
type Config[K comparable, V any] struct {
	// Load asks for the facts behind a key and puts them into the place given. An error means that they can't be had now; a "no" is
	// an answer with Denied set.
	Load func(context.Context, K, *V) (Loaded, error)
	// Hash hashes a key; maphash.Comparable does, more slowly than what knows the key's fields.
	Hash func(maphash.Seed, K) uint64
	// Own returns a copy of a key that shares no memory with the request it came from; called once for each load.
	Own func(K) K
	// Capacity and Denials bound the entries kept, grants and denials apart: a flood of one can't push out the other.
	Capacity, Denials int
	// MaxStaleness bounds the staleness of what Get returns while loads succeed.
	MaxStaleness time.Duration
	// MaxStaleIfDown bounds it while they fail.
	MaxStaleIfDown time.Duration
	// MaxAge and DenialAge bound an entry's age; a grant's is shortened by up to a tenth, so that entries loaded together don't
	// end together.
	MaxAge, DenialAge time.Duration
	// LoadTimeout bounds one load, the wait for its turn included; without that wait MaxStaleness bounds it too. MaxLoads is how
	// many run at once.
	LoadTimeout time.Duration
	MaxLoads    int
}

// Loaded is what the facts of a load depend on. An empty id depends on nothing by that name.
type Loaded struct {
	Denied       bool
	User, Tenant string
	Plans        []string
	// Any: the answer depends on users and tenants that may yet come to exist or change their names. Every denial does.
	Any bool
}

// Cache holds facts. Make one with New.
type Cache[K comparable, V any] struct {
	cfg      Config[K, V]
	epochs   epochs
	held     *store[K, V]
	polled   atomic.Pointer[instant]
	seed     maphash.Seed
	lifetime context.Context
	end      context.CancelFunc
	turns    chan struct{} // one token for each load that may run
	stats    counters

	mu      sync.Mutex // guards flights and closed; never held across a load
	flights map[K]*flight[K, V]
	closed  bool
	running sync.WaitGroup
}

// Entry is one answer. Who keeps it may ask for it again without a look into the cache (see Again). The facts lie in it, so that a
// processor that has to fetch it from memory waits once.
type Entry[K comparable, V any] struct { // what isn't atomic never changes
	of     *Cache[K, V]
	key    K
	stamp  stamp
	from   instant     // when its load began
	maxAge uint32      // milliseconds
	used   atomic.Bool // since it was last passed over by an eviction
	gone   atomic.Bool // replaced by a later answer, or evicted
	value  V
}

// Key returns what was asked.
func (e *Entry[K, V]) Key() K { return e.key }

// Value returns the facts.
func (e *Entry[K, V]) Value() *V { return &e.value }

func (e *Entry[K, V]) denied() bool {
	return e.stamp.flags&denies != 0
}

// flight is one load under way.
type flight[K comparable, V any] struct {
	done  chan struct{}
	entry *Entry[K, V] // set before done closes, nil with err
	err   error
}

// New makes a cache.
func New[K comparable, V any](cfg Config[K, V]) *Cache[K, V] {
	return newStriped(cfg, idStripes)
}

// newStriped makes a cache that tells ids apart by that many stripes.
func newStriped[K comparable, V any](cfg Config[K, V], stripes int) *Cache[K, V] {
	lifetime, end := context.WithCancel(context.Background())
	return &Cache[K, V]{
		cfg:      cfg,
		epochs:   epochs{users: make([]atomic.Uint64, stripes), tenants: make([]atomic.Uint64, stripes)},
		held:     newStore[K, V](cfg.Capacity, cfg.Denials),
		seed:     maphash.MakeSeed(),
		lifetime: lifetime,
		end:      end,
		turns:    make(chan struct{}, cfg.MaxLoads),
		flights:  make(map[K]*flight[K, V]),
	}
}

// Get returns the facts behind key: those cached while they are valid and fresh enough, else newly loaded ones, else, where they
// can't be loaded, valid ones of at most MaxStaleIfDown. A cancelled ctx ends this caller's wait, never the load. at is when the
// caller read the clock, which must be just now: nothing that waits may lie between.
func (c *Cache[K, V]) Get(ctx context.Context, key K, at time.Time) (*Entry[K, V], error) {
	hash := c.cfg.Hash(c.seed, key)
	for attempt := 0; ; attempt++ {
		e := c.held.get(hash, &key)
		if e != nil {
			switch c.judge(e, instantOf(at)) {
			case fresh:
				return e, nil
			case ageing:
				c.join(hash, key, true)
				return e, nil
			}
		}
		c.stats.misses.Add(1)
		f := c.join(hash, key, false)
		if f == nil {
			return nil, ErrClosed
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case f.err == nil && (c.epochs.valid(&f.entry.stamp) || attempt > 0 || mutation == flightIgnoresStamp):
			return f.entry, nil
		case f.err == nil:
			at = time.Now() // changed while it loaded: this caller may have come after the change
			continue
		case e != nil && c.bearable(e):
			c.stats.staleServes.Add(1)
			return e, nil
		}
		return nil, f.err
	}
}

// Again reports whether Get would return this entry once more, without waiting and without loading it anew in the background; of
// another cache's entry, that it wouldn't. at is what it is for Get.
func (c *Cache[K, V]) Again(e *Entry[K, V], at time.Time) bool {
	if e.of != c || e.gone.Load() || c.judge(e, instantOf(at)) != fresh {
		return false
	}
	c.held.hit(e)
	return true
}

// verdict is what an entry is good for.
type verdict int

const (
	unusable verdict = iota
	ageing           // usable, to be loaded anew in the background
	fresh
)

// judge tells whether an entry may be served without asking.
func (c *Cache[K, V]) judge(e *Entry[K, V], now instant) verdict {
	polled := c.polled.Load() // before the stripes: changes of a later poll may be missing from them
	if !c.epochs.valid(&e.stamp) {
		return unusable
	}
	age, maxAge := now.since(e.from), time.Duration(e.maxAge)*time.Millisecond
	switch {
	case staleness(age, now, polled) > c.cfg.MaxStaleness || age > maxAge:
		return unusable
	case age > maxAge*4/5 && !e.denied():
		return ageing
	}
	return fresh
}

// bearable tells whether an entry may be served although it can't be loaded anew.
func (c *Cache[K, V]) bearable(e *Entry[K, V]) bool {
	polled := c.polled.Load()
	if !c.epochs.valid(&e.stamp) {
		return false
	}
	now := instantOf(time.Now())
	return staleness(now.since(e.from), now, polled) <= c.cfg.MaxStaleIfDown || mutation == ceilingIgnored
}

// staleness bounds how long ago a change was committed that a valid entry of that age may miss.
func staleness(age time.Duration, now instant, polled *instant) time.Duration {
	if polled == nil {
		return age
	}
	return min(age, now.since(*polled))
}

// join returns the flight of a key, which it starts where there is none; nil once the cache is closed.
func (c *Cache[K, V]) join(hash uint64, key K, early bool) *flight[K, V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if f := c.flights[key]; f != nil {
		return f
	}
	key = c.cfg.Own(key)
	f := &flight[K, V]{done: make(chan struct{}), err: errLoaderGone}
	c.flights[key] = f
	c.running.Add(1)
	if early {
		c.stats.refreshes.Add(1)
	}
	go c.fly(hash, key, f)
	return f
}

// errLoaderGone is a flight's error until its load returns: a loader that panics or exits leaves it.
var errLoaderGone = errors.New("coherent: the load did not return")

// fly runs one load and files its answer.
func (c *Cache[K, V]) fly(hash uint64, key K, f *flight[K, V]) {
	defer c.running.Done()
	defer func() {
		_ = recover() // the waiters get errLoaderGone; a panic on this goroutine would end the process
		c.mu.Lock()
		delete(c.flights, key)
		c.mu.Unlock()
		close(f.done)
	}()
	ctx, cancel := context.WithTimeout(c.lifetime, c.cfg.LoadTimeout)
	defer cancel()
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		f.err = ctx.Err()
		return
	}
	// An answer is as old as its load took. Waiting for a turn adds nothing to that.
	ctx, cancel = context.WithTimeout(ctx, c.cfg.MaxStaleness)
	defer cancel()
	entry, err := c.load(ctx, key)
	if err != nil {
		c.stats.failures.Add(1)
		f.err = err
		return
	}
	c.held.file(hash, entry)
	f.entry, f.err = entry, nil
}

// load asks for a key's facts and stamps them.
func (c *Cache[K, V]) load(ctx context.Context, key K) (*Entry[K, V], error) {
	c.stats.loads.Add(1)
	began, from := c.epochs.now(), instantOf(time.Now()) // both before the question is asked
	e := &Entry[K, V]{of: c, key: key, from: from}
	l, err := c.cfg.Load(ctx, key, &e.value)
	if err != nil {
		return nil, err
	}
	if mutation == stampAfterLoad {
		began = c.epochs.now()
	}
	maxAge := c.cfg.DenialAge
	if !l.Denied {
		maxAge = c.cfg.MaxAge - time.Duration(rand.Int64N(int64(c.cfg.MaxAge)/10+1))
	}
	e.maxAge = uint32(min(maxAge.Milliseconds(), math.MaxUint32))
	c.epochs.stamp(&e.stamp, began, l.User, l.Tenant, l.Plans, l.Any || l.Denied)
	if l.Denied {
		e.stamp.flags |= denies
	}
	return e, nil
}

// Close refuses further loads, cancels those under way and returns when they have ended.
func (c *Cache[K, V]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.running.Wait()
}
