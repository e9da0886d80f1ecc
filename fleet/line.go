package fleet

import (
	"context"
	"net/url"
	"strings"

	"github.com/tenantdb/tenantdb/hostdb"
)

// lookahead is how many tenants a line holds at least while it looks for one whose server has room.
const lookahead = 200

// line hands tenants to goroutines, some at once and some of them on one server.
type line struct {
	parallel, perServer int
	page                func() ([]*hostdb.TenantCatalog, error) // the next at most lookahead tenants; fewer: the last
	do                  func(*hostdb.TenantCatalog)

	waiting   []*hostdb.TenantCatalog
	exhausted bool
	running   int
	busy      map[string]int // by server, how many run
	ended     chan string    // the server of one that has ended
}

// run works until no tenant is left, or ctx has ended; then it waits for those that run.
func (l *line) run(ctx context.Context) error {
	l.busy, l.ended = make(map[string]int), make(chan string)
	var failure error
	for {
		for ctx.Err() == nil && failure == nil && !l.exhausted && len(l.waiting) < lookahead {
			page, err := l.page()
			l.waiting = append(l.waiting, page...)
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
	for i, tenant := range l.waiting {
		server := serverOf(tenant.DBURL)
		if l.busy[server] >= l.perServer {
			continue
		}
		l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
		l.running++
		l.busy[server]++
		go func() {
			defer func() { l.ended <- server }()
			l.do(tenant)
		}()
		return true
	}
	return false
}

// serverOf names the server of a db_url.
func serverOf(dbURL hostdb.Secret) string {
	if strings.HasPrefix(dbURL.Reveal(), "sqlite:") {
		return "sqlite"
	}
	u, err := url.Parse(dbURL.Reveal())
	if err != nil {
		return ""
	}
	return u.Host
}
