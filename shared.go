package tenantdb

import (
	"reflect"
	"runtime"
	"sync"
	"weak"

	"github.com/tenantdb/tenantdb/hostdb"
)

// sharedRows lets cached facts have in common what they say alike: thousands of members of a tenant hold one
// copy of its row, its subscriptions and its plans. That takes less memory, and what requests read of a busy
// tenant is in the processor's caches. It must be memory of its own: the runtime keeps what its cleanups lead
// to, which may not be what holds the rows.
type sharedRows struct {
	tenants shared[tenantFacts]
	plans   shared[hostdb.PricingPlan]
}

// tenantFacts is what the host database says about a tenant, whoever asks.
type tenantFacts struct {
	tenant        hostdb.TenantCatalog
	plan          *hostdb.PricingPlan
	subscriptions []hostdb.Subscribed
}

// share replaces what others hold too. Only a member's answer is whole: to others no subscriptions are told.
func (s *sharedRows) share(a *hostdb.Access) {
	if a.Membership == nil {
		return
	}
	t := &tenantFacts{tenant: *a.Tenant, plan: s.plan(a.TenantPlan), subscriptions: a.Subscriptions}
	for i := range t.subscriptions {
		t.subscriptions[i].Plan = s.plan(t.subscriptions[i].Plan)
	}
	t = s.tenants.one(t.tenant.ID, t)
	a.Tenant, a.TenantPlan, a.Subscriptions = &t.tenant, t.plan, t.subscriptions // the tenant's row keeps all of t
}

// plan returns the one copy of a plan's row.
func (s *sharedRows) plan(p *hostdb.PricingPlan) *hostdb.PricingPlan {
	if p == nil {
		return nil
	}
	return s.plans.one(p.ID, p)
}

// shared finds the value that was filed last for each id, while somebody holds it.
type shared[T any] struct {
	mu   sync.Mutex // guards byID
	byID map[string]weak.Pointer[T]
}

// one returns the value filed for an id where it is the same, else the given one, which is filed from now on.
func (s *shared[T]) one(id string, v *T) *T {
	s.mu.Lock()
	held := s.byID[id].Value()
	s.mu.Unlock()
	if held != nil && reflect.DeepEqual(held, v) {
		return held
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = make(map[string]weak.Pointer[T])
	}
	s.byID[id] = weak.Make(v)
	runtime.AddCleanup(v, s.forget, id)
	return v
}

// forget removes an id that nobody holds a value of any more.
func (s *shared[T]) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id].Value() == nil {
		delete(s.byID, id)
	}
}
