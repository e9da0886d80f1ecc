package main

import (
	"container/list"
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// evenSplit returns how many connections each tenant may have so that most tenants have some. Of the splits
// that were tried it is the best one, for pgxpools and for PgBouncer.
func evenSplit(budget, tenants int) int { return max(1, budget/tenants) }

// lruPools keeps one pgxpool for each of the most recently used tenants. A pool in use isn't closed.
type lruPools struct {
	urls      []string
	text      string // of the query
	pools     int    // at most
	conns     int    // each
	mu        sync.Mutex
	open      map[int]*lruPool
	leastLast *list.List // of *lruPool, the one used last in front
}

type lruPool struct {
	tenant int
	pool   *pgxpool.Pool
	users  int
	place  *list.Element
}

func newLRUPools(urls []string, budget, conns int) *lruPools {
	return &lruPools{urls: urls, text: pointQuery, pools: budget / conns, conns: conns,
		open: map[int]*lruPool{}, leastLast: list.New()}
}

func (l *lruPools) query(ctx context.Context, tenant int) (string, error) {
	p, err := l.take(tenant)
	if err != nil {
		return "", err
	}
	defer l.giveBack(p)
	return readName(p.pool.QueryRow(ctx, l.text, 1))
}

// take returns a tenant's pool. If it has to open one, it may close the least recently used one.
func (l *lruPools) take(tenant int) (*lruPool, error) {
	l.mu.Lock()
	p := l.open[tenant]
	var victim *lruPool
	if p == nil {
		victim = l.makeRoom()
		// connects later
		pool, err := newPgxPool(context.Background(), l.urls[tenant], l.conns,
			pgx.QueryExecModeCacheStatement)
		if err != nil {
			l.mu.Unlock()
			return nil, err
		}
		p = &lruPool{tenant: tenant, pool: pool}
		p.place = l.leastLast.PushFront(p)
		l.open[tenant] = p
	}
	p.users++
	l.leastLast.MoveToFront(p.place)
	l.mu.Unlock()
	if victim != nil {
		victim.pool.Close()
	}
	return p, nil
}

// makeRoom removes the least recently used idle pool if all places are taken.
func (l *lruPools) makeRoom() *lruPool {
	if len(l.open) < l.pools {
		return nil
	}
	for e := l.leastLast.Back(); e != nil; e = e.Prev() {
		if p := e.Value.(*lruPool); p.users == 0 {
			l.leastLast.Remove(e)
			delete(l.open, p.tenant)
			return p
		}
	}
	return nil
}

func (l *lruPools) giveBack(p *lruPool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.users--
}

func (l *lruPools) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.open {
		p.pool.Close()
	}
}

// bouncedPools keeps a pgxpool to PgBouncer open for every tenant, since connections to it are cheap. In
// PgBouncer's transaction mode a query uses no named statement and takes one round trip.
type bouncedPools struct {
	pools []func() (*pgxpool.Pool, error)
}

func newBouncedPools(urls []string) *bouncedPools {
	b := &bouncedPools{}
	for _, url := range urls {
		b.pools = append(b.pools, sync.OnceValues(func() (*pgxpool.Pool, error) {
			return newPgxPool(context.Background(), url, 8, pgx.QueryExecModeExec)
		}))
	}
	return b
}

func (b *bouncedPools) query(ctx context.Context, tenant int) (string, error) {
	pool, err := b.pools[tenant]()
	if err != nil {
		return "", err
	}
	return readName(pool.QueryRow(ctx, pointQuery, 1))
}

func (b *bouncedPools) close() {
	for _, pool := range b.pools {
		if p, err := pool(); err == nil {
			p.Close()
		}
	}
}
