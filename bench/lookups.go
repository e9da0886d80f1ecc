package main

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

const (
	oneQueryEach = "one query for each, four connections"
	roundTrip    = 5 * time.Millisecond
	waiting      = 512 // requests at a time
)

var lookupsScenario = Scenario{
	Name:  "lookups",
	Title: "First requests with the host database 5 ms away",
	About: `Members whom the cache doesn't know yet, on PostgreSQL behind a proxy that delays every byte by
2.5 ms each way. First the access query for one after the other, on each of four connections. Then the
middleware with four connections and a cold cache, 512 requests at a time: lookups that wait together go
together. Then the same beside one caller who asks for made-up tenants with 512 more requests at a time.
Target: 10 × the lookups of one query for each.`,
	Open: openLookups,
}

func openLookups(b *Bench) (*Comparison, error) {
	n := min(b.scale.hostTenants, 20_000)
	host, bare, err := hostOn(b, onPostgres)
	if err != nil {
		return nil, err
	}
	if err := fillHost(b.ctx, bare, onPostgres, n); err != nil {
		return nil, err
	}
	// A lease opens nothing before the first statement, and these requests send none.
	if _, err := bare.ExecContext(b.ctx,
		"UPDATE core_tenants SET db_url = 'sqlite:' || id || '.db'"); err != nil {
		return nil, err
	}
	if err := mendTriggers(b, host, bare); err != nil {
		return nil, err
	}
	far, err := farAway(b, host.URI())
	if err != nil {
		return nil, err
	}
	l := &lookups{b: b, host: far, n: n}
	return &Comparison{Bases: []string{oneQueryEach}, Columns: []Column{
		{Name: "lookups/s", Format: integer, Ratio: true},
		{Name: "refused", Format: integer}},
		Rows: []Row{
			{"PostgreSQL, 5 ms", oneQueryEach, l.oneByOne},
			{"PostgreSQL, 5 ms", "the middleware, 512 requests at a time", func() ([]float64, error) {
				return l.through(false)
			}},
			{"PostgreSQL, 5 ms", "beside 512 requests for made-up tenants", func() ([]float64, error) {
				return l.through(true)
			}},
		}}, nil
}

// mendTriggers enables the triggers that fillHost disabled. Without them the feed promises the middleware
// nothing.
func mendTriggers(b *Bench, host *hostdb.DB, bare *sql.DB) error {
	faults, err := host.Verify(b.ctx)
	for _, fault := range faults {
		if err == nil {
			_, err = bare.ExecContext(b.ctx, fault.Fix)
		}
	}
	return err
}

// farAway opens a host database through a proxy that delays everything.
func farAway(b *Bench, address string) (*hostdb.DB, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	u.Host, err = delayed(b, u.Host, roundTrip/2)
	if err != nil {
		return nil, err
	}
	host, err := hostdb.Open(b.ctx, u.String())
	if err == nil {
		b.onClose(func() { _ = host.Close() })
	}
	return host, err
}

// lookups looks up members of a host database.
type lookups struct {
	b    *Bench
	host *hostdb.DB
	n    int // members
}

// oneByOne looks members up from four goroutines, one query each.
func (l *lookups) oneByOne() ([]float64, error) {
	return l.count(4, func(i int) (bool, error) {
		found, err := l.host.Access(l.b.ctx, hostdb.UserKey{OAuthID: "o" + hexID(i)},
			hostdb.TenantKey{Slug: "s-" + hexID(i)})
		return err == nil && found.Membership != nil, err
	})
}

// through sends requests through a new middleware, and, if flooded, those of a caller who makes names up.
func (l *lookups) through(flooded bool) ([]float64, error) {
	dir, err := l.b.folder()
	if err != nil {
		return nil, err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: dir, MaxIdleTenants: l.n + 1})
	if err != nil {
		return nil, err
	}
	defer pool.Close(l.b.ctx)
	mw, err := tenantdb.New(tenantdb.Config{
		Host: l.host, Authenticator: headerUser{}, Tenant: tenantdb.FromHeader(tenantHeader), Pool: pool,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer mw.Close(l.b.ctx)
	for mw.Stats().SincePoll < 0 { // the feed's first delivery is a reset
		time.Sleep(roundTrip)
	}
	h := mw.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ask := func(user, tenant string) int {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(userHeader, user)
		r.Header.Set(tenantHeader, tenant)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec.Code
	}
	if flooded {
		var over atomic.Bool
		var flood sync.WaitGroup
		defer flood.Wait()
		defer over.Store(true)
		for k := range waiting {
			flood.Go(func() {
				for i := 0; !over.Load(); i++ {
					ask("o"+hexID(0), fmt.Sprintf("no-%d-%d", k, i))
				}
			})
		}
	}
	return l.count(waiting, func(i int) (bool, error) {
		return ask("o"+hexID(i), "s-"+hexID(i)) == http.StatusOK, nil
	})
}

// count looks up members from several goroutines, each member until it is found. It returns how many were
// found in a second, and how many answers were refusals.
func (l *lookups) count(goroutines int, ask func(i int) (bool, error)) ([]float64, error) {
	var next, found, refused atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, goroutines)
	began := time.Now()
	for range goroutines {
		wg.Go(func() {
			for first := true; first || time.Since(began) < 4*l.b.scale.slice; first = false {
				i := int(next.Add(1))
				if i >= l.n {
					return
				}
				for ok := false; !ok && time.Since(began) < time.Minute; {
					var err error
					if ok, err = ask(i); err != nil {
						errs <- err
						return
					}
					if ok {
						found.Add(1)
					} else {
						refused.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	if found.Load() == 0 {
		return nil, errors.New("nobody was found")
	}
	return []float64{float64(found.Load()) / took.Seconds(), float64(refused.Load())}, nil
}
