package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

var acquireScenario = Scenario{
	Name:  "acquire",
	Title: "Taking a connection and giving it back",
	About: `Acquiring and releasing a warm connection, without a query, on one goroutine. With several tenants
the pool knows all of them, and those that have a connection take turns (80 at most, the budget). The other
row is one pgxpool for each of these. Target: ≤ 0.6 × pgxpool.`,
	Open: openAcquire,
}

func openAcquire(b *Bench) (*Comparison, error) {
	most := b.scale.databases[len(b.scale.databases)-1]
	e, err := b.databases(most)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Bases: []string{"pgxpool"}, Columns: []Column{
		{Name: "time", Format: nanoseconds, Ratio: true}}}
	for _, n := range []int{1, most} {
		warm := min(n, tenantBudget-10)
		theirs, err := manyPgxPools(b, e, warm)
		if err != nil {
			return nil, err
		}
		mine, err := manyLeases(b, e, n)
		if err != nil {
			return nil, err
		}
		group := fmt.Sprintf("%d tenants, %d with a connection", n, warm)
		c.Rows = append(c.Rows,
			Row{group, "pgxpool", func() ([]float64, error) {
				return timed(b.scale.slice, func(i int) error {
					conn, err := theirs[i%warm].Acquire(b.ctx)
					if err == nil {
						conn.Release()
					}
					return err
				})
			}},
			Row{group, ours, func() ([]float64, error) {
				return timed(b.scale.slice, func(i int) error {
					conn, err := mine[i%warm].PG().Acquire(b.ctx)
					if err == nil {
						conn.Release()
					}
					return err
				})
			}})
	}
	return c, nil
}

// manyPgxPools opens one pgxpool with one connection for each tenant.
func manyPgxPools(b *Bench, e *estate, n int) ([]*pgxpool.Pool, error) {
	urls, err := e.urls("lru", n)
	if err != nil {
		return nil, err
	}
	var list []*pgxpool.Pool
	for _, url := range urls {
		pool, err := newPgxPool(b.ctx, url, 1, pgx.QueryExecModeCacheStatement)
		if err != nil {
			return nil, err
		}
		b.onClose(pool.Close)
		if err := pool.Ping(b.ctx); err != nil {
			return nil, err
		}
		list = append(list, pool)
	}
	return list, nil
}

// manyLeases takes a lease on each tenant from one pool. The first tenants get their connection last.
func manyLeases(b *Bench, e *estate, n int) ([]*tenantdb.Lease, error) {
	urls, err := e.urls("ours", n)
	if err != nil {
		return nil, err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxConns: tenantBudget})
	if err != nil {
		return nil, err
	}
	b.onClose(func() { _ = pool.Close(context.Background()) })
	list := make([]*tenantdb.Lease, n)
	for i := n - 1; i >= 0; i-- {
		lease, err := pool.Lease(catalogOf(urls[i]))
		if err != nil {
			return nil, err
		}
		b.onClose(lease.Release)
		list[i] = lease
		if i >= tenantBudget-10 {
			continue
		}
		if _, err := lease.PG().Exec(b.ctx, "SELECT 1"); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// catalogOf returns a tenant whose database has that URL.
func catalogOf(url string) *hostdb.TenantCatalog {
	return &hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(url)}
}

// timed calls do for a while and returns the nanoseconds of one call.
func timed(d time.Duration, do func(i int) error) ([]float64, error) {
	began, n := time.Now(), 0
	for n == 0 || time.Since(began) < d {
		for range 64 {
			if err := do(n); err != nil {
				return nil, err
			}
			n++
		}
	}
	return []float64{float64(time.Since(began)) / float64(n)}, nil
}
