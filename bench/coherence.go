package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

var coherenceScenario = Scenario{
	Name:  "coherence",
	Title: "From COMMIT to refused",
	About: `Two processes serve members from their caches. A third one removes members from the host database.
A delay runs from the return of COMMIT to the last request that either process still let in; requests come
about every millisecond. The bound is CacheConfig.MaxStaleness, here 3 s. With NOTIFY PostgreSQL wakes the
processes. Without it, as behind PgBouncer, they poll once a second. SQLite has no NOTIFY.`,
	Open: openCoherence,
}

func openCoherence(b *Bench) (*Comparison, error) {
	c := &Comparison{Columns: []Column{{Name: "p50", Format: nanoseconds, Ratio: true},
		{Name: "p99", Format: nanoseconds},
		{Name: "max", Format: nanoseconds, Worst: true}}}
	for _, variant := range []struct {
		name, engine string
		quiet        bool
	}{{"PostgreSQL, NOTIFY", onPostgres, false}, {"PostgreSQL, poll alone", onPostgres, true},
		{"SQLite", onSQLite, false}} {
		host, _, err := hostOn(b, variant.engine)
		if err != nil {
			return nil, err
		}
		tenants, err := populate(b.ctx, host, 1, 1, func(id string, _ int) string {
			return "sqlite:" + id + ".db"
		})
		if err != nil {
			return nil, err
		}
		dir, err := b.folder()
		if err != nil {
			return nil, err
		}
		r := &revoker{host: host, tenant: tenants[0]}
		for range 2 {
			server, err := startChild(b, servedBy{Kind: cachedMembers, Host: host.URI(), Dir: dir,
				Quiet: variant.quiet})
			if err != nil {
				return nil, err
			}
			r.servers = append(r.servers, server)
		}
		c.Rows = append(c.Rows, Row{fmt.Sprintf("%d removals a round", b.scale.removals), variant.name,
			func() ([]float64, error) {
				return r.round(b, b.scale.removals)
			}})
	}
	return c, nil
}

// cachedMembers is a service that lets in the member whom a header names.
const (
	cachedMembers = "cached members"
	userHeader    = "X-User"
)

// headerUser is an Authenticator that believes a header.
type headerUser struct{}

// Authenticate implements tenantdb.Authenticator.
func (headerUser) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	return &tenantdb.Identity{Subject: r.Header.Get(userHeader)}, nil
}

// newCachedMembers makes the service.
func newCachedMembers(ctx context.Context, what *servedBy) (http.Handler, func(), error) {
	host, err := hostdb.OpenConfig(ctx, hostdb.Config{URL: hostdb.Secret(what.Host), NoNotify: what.Quiet})
	if err != nil {
		return nil, nil, err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: what.Dir})
	if err != nil {
		return nil, nil, err
	}
	mw, err := tenantdb.New(tenantdb.Config{
		Host: host, Authenticator: headerUser{}, Tenant: tenantdb.FromHeader(tenantHeader), Pool: pool})
	if err != nil {
		return nil, nil, err
	}
	return mw.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), func() {
		_ = mw.Close(ctx)
		_ = pool.Close(ctx)
		_ = host.Close()
	}, nil
}

// revoker removes members whom servers have let in.
type revoker struct {
	host    *hostdb.DB
	tenant  *hostdb.TenantCatalog
	servers []*child
}

// round removes n members, ten at a time, and returns the delays' median, 99th percentile and maximum in
// nanoseconds.
func (r *revoker) round(b *Bench, n int) ([]float64, error) {
	members, err := r.hire(b.ctx, n)
	if err != nil {
		return nil, err
	}
	queue := make(chan *hostdb.Membership, n)
	for _, m := range members {
		queue <- m
	}
	close(queue)
	var mu sync.Mutex
	var delays []float64
	var failed error
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for m := range queue {
				delay, err := r.remove(b.ctx, m)
				mu.Lock()
				delays = append(delays, float64(delay))
				if err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(delays)
	return []float64{quantile(delays, 0.5), quantile(delays, 0.99), delays[len(delays)-1]}, failed
}

// hire makes n members. Each one's subject is the id of their membership.
func (r *revoker) hire(ctx context.Context, n int) (members []*hostdb.Membership, err error) {
	err = r.host.InTx(ctx, func(tx *hostdb.Tx) error {
		members = nil
		for range n {
			id := hostdb.NewID()
			u := &hostdb.GlobalUser{OAuthID: id, Email: id + "@example.com"}
			if err := tx.Users.Insert(ctx, u); err != nil {
				return err
			}
			m := &hostdb.Membership{ID: id, UserID: u.ID, TenantID: r.tenant.ID, Role: hostdb.RoleMember,
				IsActive: true}
			if err := tx.Memberships.Insert(ctx, m); err != nil {
				return err
			}
			members = append(members, m)
		}
		return nil
	})
	return members, err
}

// remove removes a member whom every server has let in. It returns how long after the commit a server last
// let them in.
func (r *revoker) remove(ctx context.Context, m *hostdb.Membership) (time.Duration, error) {
	request := wireRequest(userHeader, m.ID, tenantHeader, r.tenant.Slug)
	wires := make([]*wire, len(r.servers))
	for i, server := range r.servers {
		w, err := (&target{server: server}).dial()
		if err != nil {
			return 0, err
		}
		defer w.conn.Close()
		wires[i] = w
		if status, err := w.send(request); err != nil || status != http.StatusOK {
			return 0, fmt.Errorf("before the removal: status %d, %w", status, err)
		}
	}
	if err := r.host.Memberships.Delete(ctx, m.ID); err != nil {
		return 0, err
	}
	committed := time.Now()
	last := make([]time.Duration, len(wires))
	errs := make([]error, len(wires))
	var all sync.WaitGroup
	for i, w := range wires {
		all.Go(func() { last[i], errs[i] = w.untilRefused(request, committed) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return slices.Max(last), nil
}

// untilRefused asks until the answer is no. It returns how long after an instant the last request was sent
// that wasn't refused.
func (w *wire) untilRefused(request []byte, since time.Time) (last time.Duration, err error) {
	for last < 30*time.Second {
		asked := time.Since(since)
		switch status, err := w.send(request); {
		case err != nil:
			return last, err
		case status == http.StatusForbidden:
			return last, nil
		case status != http.StatusOK:
			return last, fmt.Errorf("status %d", status)
		}
		last = asked
		time.Sleep(time.Millisecond)
	}
	return last, fmt.Errorf("still let in after %v", last)
}
