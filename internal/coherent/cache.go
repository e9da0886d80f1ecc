// Package coherent is a cache of facts that is told when they change. It knows neither SQL nor HTTP.
//
// A fact is loaded by key and depends on three things: a user, tenants and the plans that they pay for. Their
// ids are known only once it is loaded, so there is no index from an id to its keys. Instead every change
// takes the next number of one sequence and writes it into a stripe chosen by the changed id; a load
// remembers the number that was current BEFORE it asked. An entry is valid while its stripes hold nothing
// newer. So a slow load that read the old rows can't be served after the change, and two ids that share a
// stripe only cost a load too many.
//
// How old may a valid entry be? Whoever feeds the changes reports the time at which the last complete look
// for changes began (Polled). An entry that is still valid reflects every change committed before that time,
// or before its own load began, whichever is later; the difference from now is its staleness.
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

// Config describes a Cache. Every field is needed.
type Config[K comparable, V any] struct {
	// Load asks for the facts behind all keys of a batch at once, and fills in what it finds about each.
	Load func(context.Context, []Load[K, V])
	// Hash hashes a key; maphash.Comparable does, more slowly than what knows the key's fields.
	Hash func(maphash.Seed, K) uint64
	// Own returns a copy of a key that shares no memory with the request it came from; called once for each
	// load.
	Own func(K) K
	// Caller returns the part of a key that says who asks. Loads that wait for their turn wait in a line for
	// each caller.
	Caller func(K) K
	// Alike reports whether two keys can be loaded in one batch.
	Alike func(a, b K) bool
	// Capacity and Denials bound the entries kept, grants and denials apart: a flood of one can't push out
	// the other.
	Capacity, Denials int
	// MaxStaleness bounds the staleness of what Get returns while loads succeed.
	MaxStaleness time.Duration
	// MaxStaleIfDown bounds it while they fail.
	MaxStaleIfDown time.Duration
	// MaxAge and DenialAge bound an entry's age; a grant's is shortened by up to a tenth, so that entries
	// loaded together don't end together.
	MaxAge, DenialAge time.Duration
	// LoadTimeout bounds how long a caller waits for a load, the wait for its turn included, and how long a
	// batch takes, which MaxStaleness bounds too.
	LoadTimeout time.Duration
	// MaxLoads is how many batches are asked for at once, and MaxBatch of how many keys each. A batch is made
	// of what waits when its turn comes: none waits for others to join.
	MaxLoads, MaxBatch int
}

// Load is one key of a batch, with places for what is found.
type Load[K comparable, V any] struct {
	Key    K
	Value  *V    // the facts
	Loaded       // what they depend on
	Err    error // they can't be had now; a "no" is an answer with Denied set
}

// Loaded is what facts depend on. An empty id depends on nothing by that name.
type Loaded struct {
	Denied       bool
	User, Tenant string
	Tenants      []string // further ones
	Plans        []string
	// AnyUser, AnyTenant: the answer depends on users, or on tenants, that may yet come to exist or change
	// their names, as the answer about an unknown one does.
	AnyUser, AnyTenant bool
}

// Cache holds facts. Make one with New.
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

// Entry is one answer. Who keeps it may ask for it again without a look into the cache (see Again). The facts
// lie in it, so that a processor that has to fetch it from memory waits once.
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

// AsOf returns when the load of the facts began: they reflect all that was committed before.
func (e *Entry[K, V]) AsOf() time.Time { return start.Add(e.from.mono) }

func (e *Entry[K, V]) denied() bool {
	return e.stamp.flags&denies != 0
}

// flight is one load, from the first who asks for it to its answer.
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

// newStriped makes a cache that tells ids apart by that many stripes.
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

// Get returns the facts behind key: those cached while they are valid and fresh enough, else newly loaded
// ones, else, where they can't be loaded, valid ones of at most MaxStaleIfDown. A cancelled ctx ends this
// caller's wait, never a load that has begun. at is when the caller read the clock, which must be just now:
// nothing that waits may lie between.
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
		err := c.wait(ctx, f)
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

// wait returns when a flight has ended, with its error, or when this caller waits no longer.
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

// leave ends a caller's wait. A load that nobody waits for any more is not begun.
func (c *Cache[K, V]) leave(f *flight[K, V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.waiters--; f.waiters == 0 && c.queue.remove(f) {
		delete(c.flights, f.key)
	}
}

// Again reports whether Get would return this entry once more, without waiting and without loading it anew in
// the background; of another cache's entry, that it wouldn't. at is what it is for Get.
func (c *Cache[K, V]) Again(e *Entry[K, V], at time.Time) bool {
	if e.of != c || e.gone.Load() || c.judge(e, instantOf(at)) != fresh {
		return false
	}
	c.store.hit(e)
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
	return staleness(now.since(e.from), now, polled) <= c.cfg.MaxStaleIfDown
}

// staleness bounds how long ago a change was committed that a valid entry of that age may miss.
func staleness(age time.Duration, now instant, polled *instant) time.Duration {
	if polled == nil {
		return age
	}
	return min(age, now.since(*polled))
}

// join returns the flight of a key, which it makes where there is none; nil once the cache is closed. The
// caller waits for it and says when it does no longer, unless it is early.
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

// dispatch begins batches while there are turns. The caller holds c.mu.
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

// errLoaderGone is a flight's error until its load returns: a loader that panics or exits leaves it.
var errLoaderGone = errors.New("coherent: the load did not return")

// fly runs one batch and files its answers.
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

// land ends a batch's flights and gives its turn to the next one.
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

// load asks for the facts of a batch, stamps them and files them.
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

// stamp says of a new entry how long it is good.
func (c *Cache[K, V]) stamp(e *Entry[K, V], began uint64, l *Loaded) {
	maxAge := c.cfg.DenialAge
	if !l.Denied {
		maxAge = c.cfg.MaxAge - time.Duration(rand.Int64N(int64(c.cfg.MaxAge)/10+1))
	}
	e.maxAge = uint32(min(maxAge.Milliseconds(), math.MaxUint32))
	c.epochs.stamp(&e.stamp, began, l)
}

// Close refuses further loads, cancels those under way and returns when they have ended.
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
