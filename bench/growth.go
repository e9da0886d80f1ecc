package main

import (
	"context"
	"fmt"
	"hash/maphash"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/coherent"
)

const (
	bareMap    = "bare map"
	recordMap  = "map of records"        // a record for each key, as a cache has
	mapAndCopy = "bare map, context set" // and the request copied for it, as net/http wants
)

var growthScenario = Scenario{
	Name:  "growth",
	Title: "Cost as the work grows",
	About: `A hit in the cache of access facts, a lease, and a whole request. Each stands beside a bare map
with as many keys, visited in the same order, so that both miss the processor's caches alike.

- The hits' bare map leads to one record for all keys. A map with a record for each key, as a cache has,
  stands beside it.
- The requests' bare map has a second row, whose handler hands the request on with a context, which copies
  it.
- Each lookup waits for the answer of the last one, as a request waits for its own. A processor that runs
  several at once would hide the misses of the simpler variant.
- Memory is the heap's growth for one key or tenant. A request's is all that is kept of a user in a tenant,
  whose facts and database no other user shares here.
- The pool knows the tenants and has no connection to them. The requests come from one user, who is a member
  of every tenant, without a token.

Targets: a hit ≤ 100 ns at 10,000 keys and ≤ 1.5 × the bare map at 1,000,000; the overhead beyond the bare
map flat within 1.5 ×; ≤ 400 bytes for a key, ≤ 500 for a tenant.`,
	Open: openGrowth,
}

func openGrowth(b *Bench) (*Comparison, error) {
	c := &Comparison{Bases: []string{bareMap}, Columns: []Column{
		{Name: "time", Format: nanoseconds, Ratio: true}, {Name: "bytes each", Format: integer}}}
	for _, n := range b.scale.keys {
		if err := addKeys(b, c, n); err != nil {
			return nil, err
		}
	}
	for _, n := range b.scale.tenants {
		if err := addLeases(b, c, n); err != nil {
			return nil, err
		}
	}
	for _, n := range b.scale.tenants {
		if err := addRequests(b, c, n); err != nil {
			return nil, err
		}
	}
	c.Notes = growthNotes
	return c, nil
}

// growthNotes returns by how much each time exceeds that of its bases.
func growthNotes(rows []*measured) []string {
	var notes []string
	for _, m := range rows {
		if m.Name == bareMap || m.Name == recordMap || m.Name == mapAndCopy {
			continue
		}
		note := "- " + m.Group + ":"
		for _, name := range []string{bareMap, recordMap, mapAndCopy} {
			if base := find(rows, m.Group, name); base != nil {
				note += fmt.Sprintf(" %s beyond the %s,",
					nanoseconds(median(m.figures[0])-median(base.figures[0])), name)
			}
		}
		notes = append(notes, strings.TrimSuffix(note, ","))
	}
	return notes
}

// record is a cached answer of the simplest kind.
type record struct {
	loaded time.Time
	hostdb.Access
}

// pairKey is a cache's key like tenantdb's own: two names.
type pairKey struct{ user, tenant string }

// mapOf makes a map with a value for each key, and returns its bytes for each.
func mapOf[V any](keys []pairKey, value func() *V) (m map[pairKey]*V, bytes float64) {
	bytes = heapGrowth(len(keys), func() {
		m = make(map[pairKey]*V, len(keys))
		for _, k := range keys {
			m[k] = value()
		}
	})
	return m, bytes
}

// pairCache makes a cache that has all keys at that time, and returns its bytes for each.
func pairCache(b *Bench, keys []pairKey,
	at time.Time) (cache *coherent.Cache[pairKey, hostdb.Access], bytes float64, err error) {
	bytes = heapGrowth(len(keys), func() {
		cache = coherent.New(coherent.Config[pairKey, hostdb.Access]{
			Load: func(_ context.Context, batch []coherent.Load[pairKey, hostdb.Access]) {
				for i := range batch {
					batch[i].Loaded = coherent.Loaded{User: batch[i].Key.user, Tenant: batch[i].Key.tenant,
						Plans: []string{"pro"}}
				}
			},
			Hash: func(seed maphash.Seed, k pairKey) uint64 {
				return maphash.String(seed, k.user) ^ 3*maphash.String(seed, k.tenant)
			},
			Own: func(k pairKey) pairKey {
				return k
			}, Caller: func(k pairKey) pairKey { return pairKey{user: k.user} },
			Alike: func(_, _ pairKey) bool {
				return true
			}, Capacity: 2 * len(keys), Denials: 64, MaxStaleness: time.Hour, MaxStaleIfDown: time.Hour,
			MaxAge: time.Hour, DenialAge: time.Hour, LoadTimeout: time.Minute, MaxLoads: 4, MaxBatch: 16,
		})
		cache.Polled(time.Now())
		for _, k := range keys {
			if _, e := cache.Get(b.ctx, k, at); e != nil {
				err = e
			}
		}
	})
	b.onClose(cache.Close)
	return cache, bytes, err
}

// addKeys compares hits among n cached keys.
func addKeys(b *Bench, c *Comparison, n int) error {
	keys := make([]pairKey, n)
	for i := range keys {
		keys[i] = pairKey{subject(i), slug(i / 4)}
	}
	at, shared := time.Now(), new(hostdb.Access) // a request reads the clock once for all lookups
	bare, bareBytes := mapOf(keys, func() *hostdb.Access { return shared })
	records, recordBytes := mapOf(keys, func() *record { return &record{loaded: at} })
	cache, cacheBytes, err := pairCache(b, keys, at)
	if err != nil {
		return err
	}
	group := fmt.Sprintf("hit among %d keys", n)
	c.Rows = append(c.Rows,
		Row{group, bareMap, func() ([]float64, error) {
			none := 0 // the number of subscriptions, which isn't known before the record is read
			return withBytes(bareBytes, b.scale.slice, func(i int) error {
				found := bare[keys[(i*7919+none)%n]]
				if found == nil {
					return fmt.Errorf("a key is missing")
				}
				none = len(found.Subscriptions)
				return nil
			})
		}},
		Row{group, recordMap, func() ([]float64, error) {
			none := 0
			return withBytes(recordBytes, b.scale.slice, func(i int) error {
				found := records[keys[(i*7919+none)%n]]
				if found == nil || at.Sub(found.loaded) > time.Hour {
					return fmt.Errorf("a key is missing")
				}
				none = len(found.Subscriptions)
				return nil
			})
		}},
		Row{group, "tenantdb's cache", func() ([]float64, error) {
			none := 0
			return withBytes(cacheBytes, b.scale.slice, func(i int) error {
				found, err := cache.Get(b.ctx, keys[(i*7919+none)%n], at)
				if err == nil {
					none = len(found.Value().Subscriptions)
				}
				return err
			})
		}})
	return nil
}

// addLeases compares leases among n tenants.
func addLeases(b *Bench, c *Comparison, n int) error {
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxIdleTenants: 2 * n})
	if err != nil {
		return err
	}
	b.onClose(func() { _ = pool.Close(context.Background()) })
	catalog := make([]*hostdb.TenantCatalog, n)
	for i := range catalog {
		catalog[i] = catalogOf("postgres://bench:bench@127.0.0.1:1/" + databaseName(i))
	}
	poolBytes := heapGrowth(n, func() {
		for _, t := range catalog {
			var lease *tenantdb.Lease
			if lease, err = pool.Lease(t); err != nil {
				return
			}
			lease.Release()
		}
	})
	if err != nil {
		return err
	}
	var bare map[string]*hostdb.TenantCatalog
	bareBytes := heapGrowth(n, func() {
		bare = make(map[string]*hostdb.TenantCatalog, n)
		for _, t := range catalog {
			bare[t.ID] = t
		}
	})
	group := fmt.Sprintf("lease among %d tenants", n)
	c.Rows = append(c.Rows,
		Row{group, bareMap, func() ([]float64, error) {
			none := int64(0) // the tenant's schema version
			return withBytes(bareBytes, b.scale.slice, func(i int) error {
				found := bare[catalog[(i*7919+int(none))%n].ID]
				if found == nil {
					return fmt.Errorf("a tenant is missing")
				}
				none = found.SchemaVersion
				return nil
			})
		}},
		Row{group, "tenantdb's pool", func() ([]float64, error) {
			return withBytes(poolBytes, b.scale.slice, func(i int) error {
				lease, err := pool.Lease(catalog[i*7919%n])
				if err == nil {
					lease.Release()
				}
				return err
			})
		}})
	return nil
}

// onlyUser is an Authenticator that takes every request for the first user's.
type onlyUser struct{ identity tenantdb.Identity }

// Authenticate implements tenantdb.Authenticator.
func (u *onlyUser) Authenticate(*http.Request) (*tenantdb.Identity, error) { return &u.identity, nil }

// manyTenants makes a guard for a user who is a member of n tenants, and a request into each.
func manyTenants(b *Bench, n int) (guard func(http.Handler) http.Handler, tenants []*hostdb.TenantCatalog,
	requests []*http.Request, err error) {
	w, err := newWorld(b, 1, n)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := joinAll(b.ctx, w.host, w.tenants); err != nil {
		return nil, nil, nil, err
	}
	mw, err := tenantdb.New(tenantdb.Config{
		Host: w.host, Authenticator: &onlyUser{tenantdb.Identity{Subject: subject(0)}},
		Tenant: tenantdb.FromHeader(tenantHeader), Pool: w.pool})
	if err != nil {
		return nil, nil, nil, err
	}
	b.onClose(func() { _ = mw.Close(context.Background()) })
	for _, t := range w.tenants {
		r, err := http.NewRequest(http.MethodGet, "http://app.example.com/", nil)
		if err != nil {
			return nil, nil, nil, err
		}
		r.Header.Set(tenantHeader, t.Slug)
		requests = append(requests, r)
	}
	return mw.Handler, w.tenants, requests, nil
}

// addRequests compares whole requests into n tenants.
func addRequests(b *Bench, c *Comparison, n int) error {
	guard, tenants, requests, err := manyTenants(b, n)
	if err != nil {
		return err
	}
	bare := make(map[string]*hostdb.TenantCatalog, n)
	for _, t := range tenants {
		bare[t.Slug] = t
	}
	var versions atomic.Int64 // the next lookup waits for this sum, which waits for the last lookup
	look := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := bare[r.Header[tenantHeader][0]]
		if found == nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		versions.Add(found.SchemaVersion)
	})
	group := fmt.Sprintf("request into %d tenants", n)
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	handOn := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		look(w, r)
		nothing.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), boundKey{}, r)))
	})
	guarded := guard(nothing)
	answer := &silent{header: http.Header{}}
	bytes := heapGrowth(n, func() {
		for _, r := range requests {
			guarded.ServeHTTP(answer, r)
		}
	})
	if answer.status != 0 {
		return fmt.Errorf("status %d", answer.status)
	}
	for _, variant := range []struct {
		name  string
		h     http.Handler
		bytes float64
	}{{bareMap, look, 0}, {mapAndCopy, handOn, 0}, {ours, guarded, bytes}} {
		c.Rows = append(c.Rows, Row{group, variant.name, func() ([]float64, error) {
			figures, err := serveInProcess(variant.h, requests, true, 1, b.scale.slice)
			if err != nil {
				return nil, err
			}
			return []float64{figures[0], variant.bytes}, nil
		}})
	}
	return nil
}

// withBytes is timed, with a known number of bytes as a second figure.
func withBytes(bytes float64, d time.Duration, do func(i int) error) ([]float64, error) {
	figures, err := timed(d, do)
	return append(figures, bytes), err
}

// heapGrowth returns how many bytes make adds to the heap for each of n.
func heapGrowth(n int, make func()) float64 {
	var before, after runtime.MemStats
	collect := func() {
		for range 3 { // objects with finalizers need several collections
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
	}
	collect()
	runtime.ReadMemStats(&before)
	make()
	collect()
	runtime.ReadMemStats(&after)
	return float64(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / float64(n)
}
