package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

const (
	accessQuery = "access query"
	sameSQL     = "the same SQL, bare"
	primaryKey  = "select by primary key"
)

var hostScenario = Scenario{
	Name:  "host",
	Title: "Host lookups without a cache",
	About: `The query that decides whether a user may enter a tenant (user, tenant, membership, subscriptions
and plans in one). The host database has 100,000 tenants, 300,000 users and 500,000 memberships; one
goroutine asks. The rows: through hostdb; the same SQL, prepared and scanned through the same driver and
database/sql; a select of one user by primary key. Below them stands what a Python original did for each
request: loading every membership to look through them, at three sizes. Then the calls that write, on a
small database. Targets: ≤ 1.15 × the same SQL bare and ≤ 3 × the primary key.`,
	Open: openHost,
}

func openHost(b *Bench) (*Comparison, error) {
	c := &Comparison{Bases: []string{sameSQL, primaryKey, accessQuery}, Columns: []Column{
		{Name: "time", Format: nanoseconds, Ratio: true},
		{Name: "allocations", Format: integer}}}
	text, err := accessText(b)
	if err != nil {
		return nil, err
	}
	for _, engine := range []string{onPostgres, onSQLite} {
		if engine == onSQLite {
			text = withoutLateral(text)
		}
		if err := addLookups(b, c, engine, text); err != nil {
			return nil, fmt.Errorf("%s: %w", engine, err)
		}
		if err := addCalls(b, c, engine); err != nil {
			return nil, fmt.Errorf("%s: %w", engine, err)
		}
	}
	return c, nil
}

// addLookups adds the rows that read a large host database.
func addLookups(b *Bench, c *Comparison, engine, text string) error {
	n := b.scale.hostTenants
	host, bare, err := hostOn(b, engine)
	if err != nil {
		return err
	}
	if err := fillHost(b.ctx, bare, engine, n); err != nil {
		return err
	}
	access, err := bare.Prepare(text)
	if err != nil {
		return err
	}
	b.onClose(func() { _ = access.Close() })
	key, err := bare.Prepare("SELECT id, email, oauth_id FROM core_users WHERE id = $1")
	if err != nil {
		return err
	}
	b.onClose(func() { _ = key.Close() })
	who := func(i int) int { return i * 7919 % n }
	ask := func(i int) error {
		found, err := host.Access(b.ctx, hostdb.UserKey{OAuthID: "o" + hexID(who(i))},
			hostdb.TenantKey{Slug: "s-" + hexID(who(i))})
		if err == nil && found.Membership == nil {
			err = errors.New("the member was not found")
		}
		return err
	}
	group := fmt.Sprintf("%s, %d memberships", engine, 5*n)
	add := func(group, name string, batch int, do func(i int) error) {
		c.Rows = append(c.Rows, Row{group, name, func() ([]float64, error) {
			return timedWithAllocations(b.scale.slice, batch, do)
		}})
	}
	add(group, accessQuery, 64, ask)
	add(group, sameSQL, 64, func(i int) error {
		return drain(access.Query("o"+hexID(who(i)), "s-"+hexID(who(i))))
	})
	add(group, primaryKey, 64, func(i int) error { return drain(key.Query(hexID(who(i)))) })
	group = engine + ", the original's way"
	add(group, accessQuery, 64, ask)
	for _, rows := range []int{n / 100, n / 10, 5 * n} {
		query := "SELECT id, user_id, tenant_id, role, is_active FROM core_memberships WHERE id < '" +
			hexID(rows) + "'"
		add(group, fmt.Sprintf("load %d memberships", rows), 1, func(i int) error {
			return lookThrough(b.ctx, bare, query, hexID(who(i)), rows)
		})
	}
	return nil
}

// lookThrough loads every membership to find a user's.
func lookThrough(ctx context.Context, db *sql.DB, query, user string, want int) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []hostdb.Membership
	for rows.Next() {
		var m hostdb.Membership
		if err := rows.Scan(&m.ID, &m.UserID, &m.TenantID, &m.Role, &m.IsActive); err != nil {
			return err
		}
		all = append(all, m)
	}
	mine := 0
	for i := range all {
		if all[i].UserID == user {
			mine++
		}
	}
	if len(all) != want {
		return fmt.Errorf("%d memberships instead of %d", len(all), want)
	}
	return rows.Err()
}

// addCalls adds the rows of calls that write, and of the feed's poll.
func addCalls(b *Bench, c *Comparison, engine string) error {
	host, _, err := hostOn(b, engine)
	if err != nil {
		return err
	}
	next, stop := iter.Pull2(host.Changes(b.ctx))
	b.onClose(stop)
	if _, err, ok := next(); err != nil || !ok {
		return fmt.Errorf("the feed: %w", err)
	}
	calls := []struct {
		name string
		do   func(i int) error
	}{
		{"insert a tenant, audited", func(int) error {
			return host.Tenants.Insert(b.ctx, &hostdb.TenantCatalog{Name: "Acme", IsActive: true})
		}},
		{"enqueue a job", func(i int) error {
			_, err := host.Jobs.Enqueue(b.ctx, &hostdb.SystemJob{JobType: "count", TenantID: hexID(i % 40)})
			return err
		}},
		{"enqueue, claim and complete it", func(i int) error {
			if _, err := host.Jobs.Enqueue(b.ctx,
				&hostdb.SystemJob{JobType: "count", TenantID: hexID(i % 40)}); err != nil {
				return err
			}
			job, err := host.Jobs.Claim(b.ctx, "worker", nil, time.Minute)
			if err != nil {
				return err
			}
			return host.Jobs.Complete(b.ctx, job)
		}},
		{"poll of the change feed, from Wake to delivery", func(int) error {
			host.Wake()
			_, err, _ := next()
			return err
		}},
	}
	for _, call := range calls {
		c.Rows = append(c.Rows, Row{engine + ", calls", call.name, func() ([]float64, error) {
			return timedWithAllocations(b.scale.slice, 4, call.do)
		}})
	}
	return nil
}

// drain scans every column of every row into the driver's types.
func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, places := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		places[i] = &values[i]
	}
	n := 0
	for ; rows.Next(); n++ {
		if err := rows.Scan(places...); err != nil {
			return err
		}
	}
	if n == 0 {
		return errors.New("no row")
	}
	return rows.Err()
}

// timedWithAllocations is timed, with the process's allocations for one call as a second figure.
func timedWithAllocations(d time.Duration, batch int, do func(i int) error) ([]float64, error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began, n := time.Now(), 0
	for n == 0 || time.Since(began) < d {
		for range batch {
			if err := do(n); err != nil {
				return nil, err
			}
			n++
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	return []float64{float64(took) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)}, nil
}
