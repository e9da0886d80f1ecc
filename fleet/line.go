package fleet

import (
	"context"
	"slices"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// lookahead is how many tenants a line holds at least while it looks for one whose server has room.
const lookahead = 200

// line hands tenants to goroutines, some at once and some of them on one server.
type line struct {
	parallel, perServer int
	page                func() ([]*hostdb.TenantCatalog, error) // the next at most lookahead tenants; fewer: the last
	do                  func(*hostdb.TenantCatalog)

	waiting   []waiting
	exhausted bool
	running   int
	busy      map[string]int // by server, how many run
	ended     chan string    // the server of one that has ended
}

// waiting is a tenant that waits, and its server.
type waiting struct {
	tenant *hostdb.TenantCatalog
	server string
}

// run works until no tenant is left, or ctx has ended; then it waits for those that run.
func (l *line) run(ctx context.Context) error {
	l.busy, l.ended = make(map[string]int), make(chan string)
	var failure error
	for {
		for ctx.Err() == nil && failure == nil && !l.exhausted && len(l.waiting) < lookahead {
			page, err := l.page()
			for _, tenant := range page {
				l.waiting = append(l.waiting, waiting{tenant, serverOf(tenant.DBURL)})
			}
			l.exhausted, failure = len(page) < lookahead, err
		}
		if ctx.Err() == nil && failure == nil && l.start() {
			continue
		}
		if l.running == 0 {
			return failure
		}
		l.busy[<-l.ended]--
		l.running--
	}
}

// start starts the first tenant whose server has room, if there is one.
func (l *line) start() bool {
	if l.running >= l.parallel {
		return false
	}
	for i, next := range l.waiting {
		if l.busy[next.server] >= l.perServer {
			continue
		}
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.running++
		l.busy[next.server]++
		go func() {
			defer func() { l.ended <- next.server }()
			l.do(next.tenant)
		}()
		return true
	}
	return false
}

// serverOf names the server of a db_url, as the pool does. SQLite files, and what can't be read, are on "".
func serverOf(dbURL hostdb.Secret) string {
	address, err := dburl.Parse(dbURL.Reveal())
	if err != nil {
		return ""
	}
	return address.Server()
}
