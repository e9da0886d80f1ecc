package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb"
)

var neighbourScenario = Scenario{
	Name:  "neighbour",
	Title: "A noisy neighbour",
	About: `Eight tenants with a goroutine each, in a closed loop, alone and beside a ninth tenant's 200
goroutines. One server, a budget of 20 connections, one process, no HTTP. The queries: one that keeps its
connection for 2 ms and needs no processor (pg_sleep), and one row by its key. Of the latter the processors
can do only so many, and a pool can divide them only by how many connections a tenant may have. The figures
are the eight's; "neighbour/s" are the ninth's queries. A tenant's share is a quarter of the budget unless
MaxConnsPerTenant says otherwise. An LRU of pgxpools splits the budget for good, two connections for each of
the nine. Targets: their p95 ≤ 5 × their p95 alone, no errors.`,
	Open: openNeighbour,
}

const (
	alone        = "alone"
	besideNoise  = "beside the neighbour"
	sleepQuery   = "SELECT current_database(), 'slept' FROM pg_sleep(0.002) WHERE $1 > 0"
	quietTenants = 8
	sharedBudget = 20
)

func openNeighbour(b *Bench) (*Comparison, error) {
	e, err := b.databases(quietTenants + 1)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Bases: []string{alone}, Columns: []Column{
		{Name: "p50", Format: nanoseconds}, {Name: "p95", Format: nanoseconds, Ratio: true},
		{Name: "queries/s", Format: integer}, {Name: "neighbour/s", Format: integer},
		{Name: "errors", Format: integer, Worst: true}}}
	for _, q := range []struct{ name, text string }{{"2 ms", sleepQuery}, {"one row", pointQuery}} {
		for _, share := range []int{0, 2} {
			name := ours
			if share > 0 {
				name += fmt.Sprintf(", MaxConnsPerTenant %d", share)
			}
			query, err := e.leases(b, tenantdb.PoolConfig{MaxConns: sharedBudget, MaxConnsPerTenant: share},
				nil, q.text)
			if err != nil {
				return nil, err
			}
			c.Rows = append(c.Rows, neighbourRows(b, name+", "+q.name, query)...)
		}
		urls, err := e.urls("lru", quietTenants+1)
		if err != nil {
			return nil, err
		}
		pools := newLRUPools(urls, sharedBudget, evenSplit(sharedBudget, len(urls)))
		pools.text = q.text
		b.onClose(pools.close)
		c.Rows = append(c.Rows, neighbourRows(b, poolLRU+", "+q.name, pools.query)...)
	}
	return c, nil
}

// neighbourRows are the two cases that are compared.
func neighbourRows(b *Bench, group string, query querier) []Row {
	quiet := patrons{query: query}
	for i := range quietTenants {
		quiet.tenants = append(quiet.tenants, i)
	}
	noisy := patrons{query: query}
	for range b.scale.crowd {
		noisy.tenants = append(noisy.tenants, quietTenants)
	}
	measure := func(besides patrons) ([]float64, error) {
		besides.done = new(atomic.Int64)
		end := besides.start(b.ctx)
		defer end()
		quiet.during(b.ctx, b.scale.load/10) // not counted
		began, before := time.Now(), besides.done.Load()
		shots := quiet.during(b.ctx, b.scale.load)
		took, others := time.Since(began).Seconds(), float64(besides.done.Load()-before)
		return []float64{latency(shots, 0.5, everyone), latency(shots, 0.95, everyone),
			float64(len(shots)) / took, others / took, wrongs(shots)}, nil
	}
	return []Row{
		{group, alone, func() ([]float64, error) { return measure(patrons{}) }},
		{group, besideNoise, func() ([]float64, error) { return measure(noisy) }},
	}
}

// patrons are goroutines that each query for one tenant, as soon as the last answer has come.
type patrons struct {
	query    querier
	tenants  []int         // one for each goroutine
	patience time.Duration // for one query; 0: as long as it takes
	pause    time.Duration // after a refusal
	done     *atomic.Int64 // queries; may be nil
}

// start runs them until the returned function is called, which waits for them.
func (p patrons) start(ctx context.Context) (end func()) {
	var over atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.run(ctx, over.Load)
	}()
	return func() {
		over.Store(true)
		<-ended
	}
}

// during runs them for a while, and returns the outcomes.
func (p patrons) during(ctx context.Context, d time.Duration) []shot {
	began := time.Now()
	return p.run(ctx, func() bool { return time.Since(began) > d })
}

// run runs them until over reports true.
func (p patrons) run(ctx context.Context, over func() bool) []shot {
	var all sync.WaitGroup
	shots := make([][]shot, len(p.tenants))
	for i, tenant := range p.tenants {
		all.Go(func() {
			for !over() && ctx.Err() == nil {
				s := p.ask(ctx, tenant)
				shots[i] = append(shots[i], s)
				if s.wrong {
					time.Sleep(p.pause)
				}
			}
		})
	}
	all.Wait()
	var list []shot
	for _, s := range shots {
		list = append(list, s...)
	}
	return list
}

// ask sends one query.
func (p patrons) ask(ctx context.Context, tenant int) shot {
	if p.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.patience)
		defer cancel()
	}
	began := time.Now()
	name, err := p.query(ctx, tenant)
	if p.done != nil {
		p.done.Add(1)
	}
	return shot{tenant, time.Since(began), err != nil || name != databaseName(tenant)}
}

// leases returns a querier that goes through one pool to the estate's first databases. address, if set, says
// where each is reached.
func (e *estate) leases(b *Bench, cfg tenantdb.PoolConfig, address func(i int) string,
	text string) (querier, error) {
	urls, err := e.urls("ours", quietTenants+1)
	if err != nil {
		return nil, err
	}
	pool, err := tenantdb.NewPool(cfg)
	if err != nil {
		return nil, err
	}
	b.onClose(func() { _ = pool.Close(context.Background()) })
	var list []*tenantdb.Lease
	for i, url := range urls {
		if address != nil {
			if url, err = at(url, address(i)); err != nil {
				return nil, err
			}
		}
		lease, err := pool.Lease(catalogOf(url))
		if err != nil {
			return nil, fmt.Errorf("tenant %d: %w", i, err)
		}
		b.onClose(lease.Release)
		list = append(list, lease)
	}
	return func(ctx context.Context, tenant int) (string, error) {
		return readName(list[tenant].PG().QueryRow(ctx, text, 1))
	}, nil
}
