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
type dispatcher struct {
	parallel, perServer int
	// the next tenants; fewer than lookahead: the last
	page func() ([]*hostdb.TenantCatalog, error)
	do   func(*hostdb.TenantCatalog)

	queue     []queued
	exhausted bool // page has no more
	running   int
	busy      map[string]int // how many run on each server
	ended     chan string    // receives the server of a tenant whose do has returned
}

// queued is a tenant that hasn't begun.
type queued struct {
	tenant *hostdb.TenantCatalog
	server string
}

// run returns when all tenants are done. If ctx ends or page fails, no further tenant begins, and run waits
// for the running ones.
func (d *dispatcher) run(ctx context.Context) error {
	d.busy, d.ended = make(map[string]int), make(chan string)
	var failure error
	for {
		for ctx.Err() == nil && failure == nil && !d.exhausted && len(d.queue) < lookahead {
			page, err := d.page()
			for _, tenant := range page {
				d.queue = append(d.queue, queued{tenant, serverOf(tenant.DBURL)})
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
func (d *dispatcher) start() bool {
	if d.running >= d.parallel {
		return false
	}
	i := slices.IndexFunc(d.queue, func(q queued) bool { return d.busy[q.server] < d.perServer })
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

// serverOf names the PostgreSQL server of a db_url as the pool does. It is "" for SQLite files and for
// malformed URLs.
func serverOf(dbURL hostdb.Secret) string {
	address, err := dburl.Parse(dbURL.Reveal())
	if err != nil {
		return ""
	}
	return address.Server()
}
