// Package coherent is a cache of facts that is told when they change. It knows neither SQL nor HTTP.
//
// A fact is loaded by key. It depends on a user, tenants and the plans that they pay for. Their ids are known
// only once it is loaded, so there is no index from an id to its keys. Instead each change takes the next
// number of one sequence and writes it into a stripe, which the changed id chooses. A load remembers the
// number that was current BEFORE it started. An entry is valid while its stripes hold nothing newer. So a
// slow load that read the old rows can't be served after the change. Two ids that share a stripe only cost
// one load too many.
//
// The feed of changes reports when its last completed poll began ([Cache.Polled]). A valid entry reflects
// every change committed before that time, or before its own load began, whichever is later. Its staleness is
// how long ago that was.
package coherent

import (
	"container/list"
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

// Config describes a [Cache]. Every field is required.
type Config[K comparable, V any] struct {
	// Load loads the facts of all keys of a batch at once, and fills in the result of each.
	Load func(context.Context, []Load[K, V])
	// Hash hashes a key. maphash.Comparable can do that, more slowly than a function that knows the key's
	// fields.
	Hash func(maphash.Seed, K) uint64
	// Own returns a copy of a key that shares no memory with the request it came from. It is called once per
	// load.
	Own func(K) K
	// Caller returns the part of a key that tells who asks. Loads that wait for their turn wait in one line
	// per caller.
	Caller func(K) K
	// Alike reports whether two keys can be loaded in one batch.
	Alike func(a, b K) bool
	// Capacity bounds the grants that are cached, Denials the denials. A flood of one kind can't evict the
	// other.
	Capacity, Denials int
	// MaxStaleness bounds the staleness of what Get returns while loads succeed.
	MaxStaleness time.Duration
	// MaxStaleIfDown bounds it while they fail.
	MaxStaleIfDown time.Duration
	// MaxAge and DenialAge bound an entry's age. A grant's is shortened by up to a tenth, so that entries
	// loaded together don't expire together.
	MaxAge, DenialAge time.Duration
	// LoadTimeout bounds how long a caller waits for a load, including the wait for its turn. It and
	// MaxStaleness bound how long a batch takes.
	LoadTimeout time.Duration
	// MaxLoads is how many batches may run at once, and MaxBatch how many keys each may have. A batch is made
	// of the loads that wait when its turn comes. No load waits for others to join.
	MaxLoads, MaxBatch int
	// Waits, if set, is called when a caller begins to wait for a load, and the function that it returns when
	// the wait has ended. Neither may panic. They run without any lock of the cache.
	Waits func(ctx context.Context, key K) (ended func(error))
}

// Load is one key of a batch, with places for the result.
type Load[K comparable, V any] struct {
	Key    K
	Value  *V    // the facts
	Loaded       // what they depend on
	Err    error // they can't be had now; a "no" is an answer with Denied set
}

// Loaded tells what facts depend on. An empty id stands for no dependency.
type Loaded struct {
	Denied       bool
	User, Tenant string
	Tenants      []string // further ones
	Plans        []string
	// AnyUser and AnyTenant are set if the answer depends on users or tenants that may yet come to exist or
	// change their names, as the answer about an unknown one does.
	AnyUser, AnyTenant bool
}

// Cache caches facts. Make one with [New].
type Cache[K comparable, V any] struct {
	cfg      Config[K, V]
	epochs   epochs
	store    *store[K, V]
	polled   atomic.Pointer[instant]
	seed     maphash.Seed
	lifetime context.Context
	end      context.CancelFunc
	stats    counters

	mu      sync.Mutex          // guards what follows; never held across a load
	flights map[K]*flight[K, V] // that wait for their turn, and that run
	queue   queue[K, V]         // of those that wait
	flying  int                 // batches that run
	closed  bool
	running sync.WaitGroup
}

// Entry is one answer. A caller who keeps it can reuse it without a lookup (see [Cache.Again]). It contains
// the facts, so that a processor waits for memory only once.
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

// Key returns the key of the facts.
func (e *Entry[K, V]) Key() K { return e.key }

// Value returns the facts.
func (e *Entry[K, V]) Value() *V { return &e.value }

// AsOf returns when the load of the facts began. They reflect every change committed before.
func (e *Entry[K, V]) AsOf() time.Time { return start.Add(e.from.mono) }

func (e *Entry[K, V]) denied() bool {
	return e.stamp.flags&denies != 0
}

// flight is one load, from its first caller to its answer.
type flight[K comparable, V any] struct {
	hash    uint64
	key     K
	line    *line[K, V]
	place   *list.Element // in its line; nil once the load has begun
	waiters int           // who waits for it. One that is made early has one more: it is never given up
	done    chan struct{}
	entry   *Entry[K, V] // set before done closes, nil with err
	err     error
}

// New makes a cache.
func New[K comparable, V any](cfg Config[K, V]) *Cache[K, V] {
	return newStriped(cfg, idStripes)
}

// newStriped makes a cache with a number of stripes for ids.
func newStriped[K comparable, V any](cfg Config[K, V], stripes int) *Cache[K, V] {
	lifetime, end := context.WithCancel(context.Background())
	return &Cache[K, V]{
		cfg:      cfg,
		epochs:   epochs{users: make([]atomic.Uint64, stripes), tenants: make([]atomic.Uint64, stripes)},
		store:    newStore[K, V](cfg.Capacity, cfg.Denials),
		seed:     maphash.MakeSeed(),
		lifetime: lifetime,
		end:      end,
		flights:  make(map[K]*flight[K, V]),
		queue:    queue[K, V]{lines: make(map[K]*line[K, V])},
	}
}

// Get returns the facts of a key. They are cached ones while these are valid and fresh enough, otherwise
// newly loaded ones. If they can't be loaded, they are valid ones up to MaxStaleIfDown. A cancelled ctx ends
// this caller's wait, never a load that has begun. at is when the caller read the clock. Nothing that waits
// may come between that and the call.
func (c *Cache[K, V]) Get(ctx context.Context, key K, at time.Time) (*Entry[K, V], error) {
	hash := c.cfg.Hash(c.seed, key)
	for attempt := 0; ; attempt++ {
		e := c.store.get(hash, &key)
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
		err := c.observedWait(ctx, f)
		switch {
		case err == nil && (c.epochs.valid(&f.entry.stamp) || attempt > 0):
			return f.entry, nil
		case err == nil:
			at = time.Now() // changed while it loaded: this caller may have come after the change
			continue
		case ctx.Err() == nil && e != nil && c.bearable(e):
			c.stats.staleServes.Add(1)
			return e, nil
		}
		return nil, err
	}
}

// observedWait is wait, of which Config.Waits is told.
func (c *Cache[K, V]) observedWait(ctx context.Context, f *flight[K, V]) error {
	if c.cfg.Waits == nil {
		return c.wait(ctx, f)
	}
	ended := c.cfg.Waits(ctx, f.key)
	err := c.wait(ctx, f)
	ended(err)
	return err
}

// wait returns a flight's error when the flight has ended, or an error when this caller waits no longer.
func (c *Cache[K, V]) wait(ctx context.Context, f *flight[K, V]) error {
	timeout := time.NewTimer(c.cfg.LoadTimeout)
	defer timeout.Stop()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		c.leave(f)
		return ctx.Err()
	case <-timeout.C:
		c.leave(f)
		return context.DeadlineExceeded
	}
}

// leave ends a caller's wait. A load is not started if nobody waits for it any more.
func (c *Cache[K, V]) leave(f *flight[K, V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.waiters--; f.waiters == 0 && c.queue.remove(f) {
		delete(c.flights, f.key)
	}
}

// Again reports whether Get would return this entry again, without waiting and without a refresh in the
// background. It returns false for another cache's entry. at is the same as for [Cache.Get].
func (c *Cache[K, V]) Again(e *Entry[K, V], at time.Time) bool {
	if e.of != c || e.gone.Load() || c.judge(e, instantOf(at)) != fresh {
		return false
	}
	c.store.hit(e)
	return true
}

// verdict tells whether an entry may be served.
type verdict int

const (
	unusable verdict = iota
	ageing           // usable, to be loaded anew in the background
	fresh
)

// judge tells whether an entry may be served without a load.
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

// bearable reports whether an entry may be served although its load failed.
func (c *Cache[K, V]) bearable(e *Entry[K, V]) bool {
	polled := c.polled.Load()
	if !c.epochs.valid(&e.stamp) {
		return false
	}
	now := instantOf(time.Now())
	return staleness(now.since(e.from), now, polled) <= c.cfg.MaxStaleIfDown
}

// staleness returns how long ago a change that a valid entry of that age misses may have been committed.
func staleness(age time.Duration, now instant, polled *instant) time.Duration {
	if polled == nil {
		return age
	}
	return min(age, now.since(*polled))
}

// join returns the flight of a key, or a new one. It returns nil if the cache is closed. The caller must wait
// for the flight or call leave, unless it is an early refresh.
func (c *Cache[K, V]) join(hash uint64, key K, early bool) *flight[K, V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	f := c.flights[key]
	if f == nil {
		key = c.cfg.Own(key)
		f = &flight[K, V]{hash: hash, key: key, done: make(chan struct{}), err: errLoaderGone}
		c.flights[key] = f
		if early {
			c.stats.refreshes.Add(1)
		}
		c.queue.add(f, c.cfg.Caller(key))
		c.dispatch()
	}
	f.waiters++
	return f
}

// dispatch starts batches while there are turns. The caller holds c.mu.
func (c *Cache[K, V]) dispatch() {
	for !c.closed && c.flying < c.cfg.MaxLoads {
		batch := c.queue.take(c.cfg.MaxBatch, c.cfg.Alike)
		if batch == nil {
			return
		}
		c.flying++
		c.running.Add(1)
		go c.fly(batch)
	}
}

// errLoaderGone is a flight's error until its load returns. It stays if the loader panics or exits.
var errLoaderGone = errors.New("coherent: the load did not return")

// fly runs one batch.
func (c *Cache[K, V]) fly(batch []*flight[K, V]) {
	defer c.running.Done()
	defer func() {
		_ = recover() // the waiters get errLoaderGone; a panic on this goroutine would end the process
		c.land(batch)
	}()
	// An answer is as old as its load took. Waiting for a turn adds nothing to that.
	ctx, cancel := context.WithTimeout(c.lifetime, min(c.cfg.LoadTimeout, c.cfg.MaxStaleness))
	defer cancel()
	c.load(ctx, batch)
}

// land ends a batch's flights and gives its turn to the next batch.
func (c *Cache[K, V]) land(batch []*flight[K, V]) {
	c.mu.Lock()
	c.flying--
	for _, f := range batch {
		delete(c.flights, f.key)
		c.queue.landed(f)
	}
	c.dispatch()
	c.mu.Unlock()
	for _, f := range batch {
		close(f.done)
	}
}

// load loads the facts of a batch, stamps them and caches them.
func (c *Cache[K, V]) load(ctx context.Context, batch []*flight[K, V]) {
	c.stats.loads.Add(uint64(len(batch)))
	began, from := c.epochs.now(), instantOf(time.Now()) // both before the question is asked
	entries, loads := make([]*Entry[K, V], len(batch)), make([]Load[K, V], len(batch))
	for i, f := range batch {
		entries[i] = &Entry[K, V]{of: c, key: f.key, from: from}
		loads[i].Key, loads[i].Value = f.key, &entries[i].value
	}
	c.cfg.Load(ctx, loads)
	for i, f := range batch {
		if err := loads[i].Err; err != nil {
			c.stats.failures.Add(1)
			f.err = err
			continue
		}
		e := entries[i]
		c.stamp(e, began, &loads[i].Loaded)
		c.store.put(f.hash, e)
		f.entry, f.err = e, nil
	}
}

// stamp sets how long a new entry is valid.
func (c *Cache[K, V]) stamp(e *Entry[K, V], began uint64, l *Loaded) {
	maxAge := c.cfg.DenialAge
	if !l.Denied {
		maxAge = c.cfg.MaxAge - time.Duration(rand.Int64N(int64(c.cfg.MaxAge)/10+1))
	}
	e.maxAge = uint32(min(maxAge.Milliseconds(), math.MaxUint32))
	c.epochs.stamp(&e.stamp, began, l)
}

// Close refuses further loads, cancels those under way, and returns when they have ended.
func (c *Cache[K, V]) Close() {
	c.mu.Lock()
	c.closed = true
	for _, f := range c.flights {
		if c.queue.remove(f) {
			delete(c.flights, f.key)
			f.err = ErrClosed
			close(f.done)
		}
	}
	c.mu.Unlock()
	c.end()
	c.running.Wait()
}
