package tenantdb

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// ownScope is a Scope and all that it points to, except for what has no fixed size: the lists of features and
// the claims. It is one piece of memory, so that a Scope costs one allocation.
type ownScope struct {
	Scope
	identity                                    Identity
	user                                        hostdb.GlobalUser
	tenant                                      hostdb.TenantCatalog
	membership                                  hostdb.Membership
	subscription                                hostdb.Subscription
	plan                                        hostdb.PricingPlan
	lastLogin, periodEnd, trialEnd, lastEventAt time.Time
	invoiceFailedAt                             time.Time
}

// newScope copies what the host database said, and what was decided by it, into a Scope that shares no memory
// with anything else.
func (c *scopeContext) newScope(a *hostdb.Access, g grant) *Scope {
	own := &ownScope{Scope: Scope{ctx: c, subscription: g.subscription}}
	s := &own.Scope
	if c.identity != nil {
		own.identity = c.identity.own()
		s.Identity = &own.identity
	}
	if a == nil {
		return s
	}
	if s.User = copyInto(&own.user, a.User); s.User != nil {
		s.User.LastLogin = copyInto(&own.lastLogin, s.User.LastLogin)
	}
	s.Tenant = copyInto(&own.tenant, a.Tenant)
	if s.Membership = copyInto(&own.membership, a.Membership); s.Membership != nil {
		s.Role = s.Membership.Role
	}
	if s.Subscription = copyInto(&own.subscription, g.subscription); s.Subscription != nil {
		s.Subscription.CurrentPeriodEnd = copyInto(&own.periodEnd, s.Subscription.CurrentPeriodEnd)
		s.Subscription.TrialEnd = copyInto(&own.trialEnd, s.Subscription.TrialEnd)
		s.Subscription.LastEventAt = copyInto(&own.lastEventAt, s.Subscription.LastEventAt)
		s.Subscription.InvoiceFailedAt = copyInto(&own.invoiceFailedAt, s.Subscription.InvoiceFailedAt)
	}
	if s.Plan = copyInto(&own.plan, g.plan); s.Plan != nil {
		s.Plan.Features = slices.Clone(s.Plan.Features)
		s.Features = s.Plan.Features
	}
	return s
}

// copyInto copies a record, and returns the copy; nil where there is none.
func copyInto[T any](to, from *T) *T {
	if from == nil {
		return nil
	}
	*to = *from
	return to
}

// Clone returns a copy of the identity whose claims are its own: an authenticator that adds to what another
// one returned changes a clone. Values of Claims that are neither JSON's nor maps, slices or arrays are not
// copied; see Claims.
func (i *Identity) Clone() *Identity {
	if i == nil {
		return nil
	}
	own := i.own()
	return &own
}

// own is Clone by value. The copy doesn't lead to the cache.
func (i *Identity) own() Identity {
	own := *i
	own.last = nil
	if len(i.Claims) > 0 {
		c := copier{left: maxClaimValues}
		own.Claims = c.object(i.Claims)
	} else {
		own.Claims = maps.Clone(i.Claims)
	}
	return own
}

// maxClaimValues and maxClaimDepth bound what is copied of Claims, also where claims contain themselves. Both
// are more than a token can hold. The bound on the depth comes first for a map that contains itself once.
// Without it, the order in which Go ranges over a map would decide which of the outer members are left out.
const (
	maxClaimValues = 1 << 16
	maxClaimDepth  = 10_000 // as in encoding/json
)

// copier copies values until a bound is reached. What lies beyond is nil.
type copier struct{ left, depth int }

// value copies a value of JSON, a map, a slice or an array with all that is in it. Others are returned as
// they are.
func (c *copier) value(v any) any {
	switch v.(type) {
	case nil, string, bool, json.Number, float64:
		c.left--
		return v
	}
	if c.left--; c.left < 0 || c.depth == maxClaimDepth {
		return nil
	}
	c.depth++
	defer func() { c.depth-- }()
	switch v := v.(type) {
	case map[string]any:
		return c.object(v)
	case []any:
		return c.array(v)
	}
	return c.reflected(reflect.ValueOf(v)).Interface()
}

// object copies a JSON object.
func (c *copier) object(v map[string]any) map[string]any {
	if v == nil {
		return nil
	}
	own := make(map[string]any, len(v))
	for name, member := range v {
		own[name] = c.value(member)
	}
	return own
}

// array copies a JSON array.
func (c *copier) array(v []any) []any {
	if v == nil {
		return nil
	}
	own := make([]any, len(v))
	for i, element := range v {
		own[i] = c.value(element)
	}
	return own
}

// reflected copies maps, slices and arrays of other types than JSON's.
func (c *copier) reflected(v reflect.Value) reflect.Value {
	if c.left--; c.left < 0 || c.depth == maxClaimDepth {
		return reflect.Zero(v.Type())
	}
	c.depth++
	defer func() { c.depth-- }()
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		own := reflect.New(v.Type()).Elem()
		if element := c.value(v.Interface()); element != nil {
			own.Set(reflect.ValueOf(element))
		}
		return own
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		own := reflect.MakeMapWithSize(v.Type(), v.Len())
		for entries := v.MapRange(); entries.Next(); {
			own.SetMapIndex(entries.Key(), c.reflected(entries.Value()))
		}
		return own
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return v
		}
		own := reflect.New(v.Type()).Elem()
		if v.Kind() == reflect.Slice {
			own.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		}
		for i := range v.Len() {
			own.Index(i).Set(c.reflected(v.Index(i)))
		}
		return own
	}
	return v
}
