package main

import (
	"cmp"
	"context"
	"errors"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/tenantdb/tenantdb/hostdb"
)

// maxNames bounds the cache of names.
const maxNames = 10_000

// names finds readable names for the ids in a list: a tenant's slug, a user's e-mail address. The name of a
// deleted row is "".
type names struct {
	ctx    context.Context // the command's; columns are functions of a row and take none
	host   *hostdb.DB
	known  *lru.Cache[string, string]
	failed error // the first failed query, which fails the command
}

// names returns a cache of names. A failed query is returned by the session's close.
func (s *session) names(ctx context.Context, host *hostdb.DB) *names {
	known, _ := lru.New[string, string](maxNames) // fails only for a size below 1
	n := &names{ctx: ctx, host: host, known: known}
	s.closers = append(s.closers, func() error { return n.failed })
	return n
}

// tenant returns the slug of the tenant with this id.
func (n *names) tenant(id string) string {
	return name(n, "tenant", id, n.host.Tenants.Get, func(t *hostdb.TenantCatalog) string { return t.Slug })
}

// user returns the e-mail address of the user with this id.
func (n *names) user(id string) string {
	return name(n, "user", id, n.host.Users.Get, func(u *hostdb.GlobalUser) string { return u.Email })
}

// actor returns an actor's e-mail address, or the id if that isn't a user's.
func (n *names) actor(id string) string { return cmp.Or(n.user(id), id) }

// target returns the name of the row that an event is about.
func (n *names) target(event, id string) string {
	kind, _, _ := strings.Cut(event, ".")
	switch kind {
	case "tenant":
		return n.tenant(id)
	case "user":
		return n.user(id)
	case "membership":
		return name(n, kind, id, n.host.Memberships.Get, func(m *hostdb.Membership) string {
			return n.user(m.UserID) + " in " + n.tenant(m.TenantID)
		})
	case "subscription":
		return name(n, kind, id, n.host.Subscriptions.Get, func(b *hostdb.Subscription) string {
			return n.tenant(b.TenantID)
		})
	}
	return ""
}

// name returns the name of a row. It gets each row once.
func name[M any](n *names, kind, id string,
	get func(context.Context, string) (*M, error), of func(*M) string) string {
	if !hostdb.ValidID(id) || n.failed != nil {
		return ""
	}
	key := kind + " " + id
	if known, ok := n.known.Get(key); ok {
		return known
	}
	found := ""
	row, err := get(n.ctx, id)
	switch {
	case err == nil:
		found = of(row)
	case !errors.Is(err, hostdb.ErrNotFound):
		n.failed = err
		return ""
	}
	if n.failed != nil { // of may look up further names
		return ""
	}
	n.known.Add(key, found)
	return found
}
