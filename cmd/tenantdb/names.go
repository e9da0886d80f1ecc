package main

import (
	"context"
	"errors"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/tenantdb/tenantdb/hostdb"
)

// rememberedNames bounds the names that one command remembers.
const rememberedNames = 10_000

// names finds what people call the rows whose ids a list prints: a tenant's slug, a user's e-mail address. A
// row that is gone has no name: "".
type names struct {
	ctx    context.Context // of the command: columns are values of a row and take none
	host   *hostdb.DB
	known  *lru.Cache[string, string]
	failed error // the first look that failed, with which the command ends
}

// names begins to find names. If it fails, the session's close says so.
func (s *session) names(ctx context.Context, host *hostdb.DB) *names {
	known, _ := lru.New[string, string](rememberedNames) // it fails for a size below 1
	n := &names{ctx: ctx, host: host, known: known}
	s.closers = append(s.closers, func() error { return n.failed })
	return n
}

// tenant is the slug of the tenant with this id.
func (n *names) tenant(id string) string {
	return n.name("tenant "+id, id, func() (string, error) {
		tenant, err := n.host.Tenants.Get(n.ctx, id)
		if err != nil {
			return "", err
		}
		return tenant.Slug, nil
	})
}

// user is the e-mail address of the user with this id.
func (n *names) user(id string) string {
	return n.name("user "+id, id, func() (string, error) {
		user, err := n.host.Users.Get(n.ctx, id)
		if err != nil {
			return "", err
		}
		return user.Email, nil
	})
}

// actor is the e-mail address of who did something, or the word that stands for them.
func (n *names) actor(id string) string {
	if email := n.user(id); email != "" {
		return email
	}
	return id
}

// target is what people call the row that an event is about, for the events of this package's kinds of rows.
func (n *names) target(event, id string) string {
	kind, _, _ := strings.Cut(event, ".")
	switch kind {
	case "tenant":
		return n.tenant(id)
	case "user":
		return n.user(id)
	case "membership":
		return n.name("membership "+id, id, func() (string, error) {
			member, err := n.host.Memberships.Get(n.ctx, id)
			if err != nil {
				return "", err
			}
			return n.user(member.UserID) + " in " + n.tenant(member.TenantID), nil
		})
	case "subscription":
		return n.name("subscription "+id, id, func() (string, error) {
			subscription, err := n.host.Subscriptions.Get(n.ctx, id)
			if err != nil {
				return "", err
			}
			return n.tenant(subscription.TenantID), nil
		})
	}
	return ""
}

// name is what find returns, or what it returned before.
func (n *names) name(key, id string, find func() (string, error)) string {
	if !hostdb.ValidID(id) || n.failed != nil {
		return ""
	}
	if name, ok := n.known.Get(key); ok {
		return name
	}
	name, err := find()
	if err != nil && !errors.Is(err, hostdb.ErrNotFound) {
		n.failed = err
		return ""
	}
	n.known.Add(key, name)
	return name
}
