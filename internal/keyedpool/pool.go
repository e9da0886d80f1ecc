package keyedpool

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// shardCount is how many mutexes the tenants are spread over.
const shardCount = 32

// Pool holds the connections to the databases of all tenants. It is safe for concurrent use. Make it with
// [New] and end it with [Pool.Close].
type Pool[T comparable, C any] struct {
	cfg    Config[T, C]
	start  time.Time // the pool's clock counts from here
	seed   maphash.Seed
	shards [shardCount]shard[T, C]

	mu      sync.Mutex // guards servers; nothing else is locked under it
	servers map[string]*server[T, C]

	work  sync.WaitGroup // dials, closes and the sweeper
	stop  chan struct{}  // closed to end the sweeper
	ended sync.Once
}

// shard is a part of the tenants.
type shard[T comparable, C any] struct {
	// mu guards the fields below, and of each tenant what its comment says. A server's mutex may be taken
	// under it, never the other way round.
	mu      sync.Mutex
	tenants map[string]*tenant[T, C]
	closed  bool
	_       [40]byte // a cache line each, so that neighbours don't slow each other down
}

// New returns a Pool, or an error if the configuration is not valid. It opens no connection.
func New[T comparable, C any](cfg Config[T, C]) (*Pool[T, C], error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pool[T, C]{
		cfg:     cfg,
		start:   time.Now(),
		seed:    maphash.MakeSeed(),
		servers: make(map[string]*server[T, C]),
		stop:    make(chan struct{}),
	}
	for i := range p.shards {
		p.shards[i].tenants = make(map[string]*tenant[T, C])
	}
	p.work.Go(p.sweep)
	return p, nil
}

// now reads the pool's clock. It reads only the monotonic clock, which is cheaper than time.Now.
func (p *Pool[T, C]) now() time.Duration {
	return time.Since(p.start)
}

// shard returns the shard for a tenant's hash.
func (p *Pool[T, C]) shard(hash uint64) *shard[T, C] {
	return &p.shards[hash%shardCount]
}

// Lease returns a lease on a tenant, which keeps the tenant known to the pool until its Release. It opens no
// connection. If the tenant is known and its target has not changed, it takes one short lock and does not
// allocate.
//
// A changed target starts a new generation. Connections of the old generation finish their use and serve
// nobody else. Waiters go on waiting in the new generation, which begins without a backoff.
//
// Lease fails with [ErrClosed], or with [ErrTenantUnavailable] while the tenant is being drained or if
// Config.Server refuses it.
func (p *Pool[T, C]) Lease(id string, target T) (Lease[T, C], error) {
	hash := maphash.String(p.seed, id)
	sh := p.shard(hash)
	sh.mu.Lock()
	if t := sh.tenants[id]; t != nil && !sh.closed && t.serves(target) {
		t.refs++
		sh.mu.Unlock()
		return Lease[T, C]{tenant: t}, nil
	}
	sh.mu.Unlock()
	return p.leaseNew(id, hash, target)
}

// leaseNew returns a lease on a tenant that is not known or has a new target.
func (p *Pool[T, C]) leaseNew(id string, hash uint64, target T) (Lease[T, C], error) {
	if id == "" {
		return Lease[T, C]{}, &Error{Reason: ErrTenantUnavailable, Cause: errNoName}
	}
	key, err := p.cfg.Server(id, target)
	if err != nil {
		return Lease[T, C]{}, &Error{Reason: ErrTenantUnavailable, Tenant: id, Cause: err}
	}
	sh := p.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return Lease[T, C]{}, &Error{Reason: ErrClosed, Tenant: id, Server: key}
	}
	t := sh.tenants[id]
	switch {
	case t == nil:
		t = &tenant[T, C]{id: id, hash: hash, pool: p, server: p.server(key), target: target, generation: 1}
		sh.tenants[id] = t
	case t.draining > 0:
		return Lease[T, C]{}, &Error{Reason: ErrTenantUnavailable, Tenant: id, Server: key,
			Cause: errDraining}
	case !t.serves(target):
		t.renew(p.server(key), target)
	}
	t.refs++
	return Lease[T, C]{tenant: t}, nil
}

// server returns the server with a key. Servers are few and are never forgotten.
func (p *Pool[T, C]) server(key string) *server[T, C] {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.servers[key]
	if s == nil {
		s = newServer(p, key)
		p.servers[key] = s
	}
	return s
}

// all returns the servers there are.
func (p *Pool[T, C]) all() []*server[T, C] {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*server[T, C], 0, len(p.servers))
	for _, s := range p.servers {
		list = append(list, s)
	}
	return list
}

// known returns the tenant with an id, or nil.
func (p *Pool[T, C]) known(id string) *tenant[T, C] {
	sh := p.shard(maphash.String(p.seed, id))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.tenants[id]
}

// tenants returns the tenants there are.
func (p *Pool[T, C]) tenants() []*tenant[T, C] {
	var list []*tenant[T, C]
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, t := range sh.tenants {
			list = append(list, t)
		}
		sh.mu.Unlock()
	}
	return list
}

// Refresh replaces a tenant's connections: the present ones finish their use and serve nobody else.
func (p *Pool[T, C]) Refresh(id string) {
	t := p.known(id)
	if t == nil {
		return
	}
	if db := t.current.Load(); db != nil {
		s := db.server
		s.mu.Lock()
		s.refresh(db)
		s.requeue(db)
		s.dispatch()
		s.mu.Unlock()
	}
}

// Retire closes a tenant's idle connections with its last lease, and the others when they are released after
// that. It returns at once. Existing leases may still acquire, and a new lease starts a new generation.
func (p *Pool[T, C]) Retire(id string) {
	sh := p.shard(maphash.String(p.seed, id))
	sh.mu.Lock()
	t := sh.tenants[id]
	if t != nil {
		t.retired = true
	}
	sh.mu.Unlock()
	if t != nil {
		p.reap(t)
	}
}

// Drain retires a tenant and waits until its leases are released and its connections closed. Until it
// returns, new leases on the tenant fail with [ErrTenantUnavailable]. If its context ends first, it returns a
// [*HoldersError]. The tenant then stays retired and may be leased again.
func (p *Pool[T, C]) Drain(ctx context.Context, id string) error {
	sh := p.shard(maphash.String(p.seed, id))
	sh.mu.Lock()
	t := sh.tenants[id]
	if t == nil {
		sh.mu.Unlock()
		return nil
	}
	t.draining++
	gone := t.retire()
	sh.mu.Unlock()
	p.reap(t)
	defer func() {
		sh.mu.Lock()
		t.draining--
		sh.mu.Unlock()
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return &HoldersError{Holders: p.holders([]*tenant[T, C]{t}), Cause: context.Cause(ctx)}
	}
}
