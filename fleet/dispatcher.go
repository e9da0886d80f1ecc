package fleet

import (
	"context"
	"slices"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// lookahead is how many tenants a dispatcher reads ahead to find one whose server isn't busy.
const lookahead = 200

// dispatcher runs do for each tenant, with limits on how many run at once in total and per database server.
type dispatcher[T any] struct {
	parallel, perServer int
	// the next tenants; fewer than lookahead: the last
	page   func() ([]T, error)
	server func(T) string
	do     func(T)

	queue     []queued[T]
	exhausted bool // page has no more
	running   int
	busy      map[string]int // how many run on each server
	ended     chan string    // receives the server of a tenant whose do has returned
}

// queued is a tenant that hasn't begun.
type queued[T any] struct {
	tenant T
	server string
}

// run returns when all tenants are done. If ctx ends or page fails, no further tenant begins, and run waits
// for the running ones.
func (d *dispatcher[T]) run(ctx context.Context) error {
	d.busy, d.ended = make(map[string]int), make(chan string)
	var failure error
	for {
		for ctx.Err() == nil && failure == nil && !d.exhausted && len(d.queue) < lookahead {
			page, err := d.page()
			for _, tenant := range page {
				d.queue = append(d.queue, queued[T]{tenant, d.server(tenant)})
			}
			d.exhausted, failure = len(page) < lookahead, err
		}
		if ctx.Err() == nil && failure == nil && d.start() {
			continue
		}
		if d.running == 0 {
			return failure
		}
		d.busy[<-d.ended]--
		d.running--
	}
}

// start starts the first queued tenant whose server isn't busy. It reports false if there is none.
func (d *dispatcher[T]) start() bool {
	if d.running >= d.parallel {
		return false
	}
	i := slices.IndexFunc(d.queue, func(q queued[T]) bool { return d.busy[q.server] < d.perServer })
	if i < 0 {
		return false
	}
	next := d.queue[i]
	d.queue = slices.Delete(d.queue, i, i+1)
	d.running++
	d.busy[next.server]++
	go func() {
		defer func() { d.ended <- next.server }()
		d.do(next.tenant)
	}()
	return true
}

// serverOf names the PostgreSQL server of a tenant as the pool does. It is "" for SQLite files and for
// malformed URLs.
func serverOf(tenant *hostdb.TenantCatalog) string {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	if err != nil {
		return ""
	}
	return address.Server()
}
