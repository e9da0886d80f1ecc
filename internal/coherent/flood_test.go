package coherent

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// One member asks for 100,000 tenants that don't exist, each twice, while others work.
func TestCache_aFloodOfUnknownNamesEvictsNobody(t *testing.T) {
	const asked, members = 100_000, 1000
	var grants, denials atomic.Int64 // loads
	cfg := baseConfig(each(func(_ context.Context, k key, _ *int) (Loaded, error) {
		if k.slug != "acme" {
			denials.Add(1)
			return Loaded{Denied: true, User: k.user, AnyTenant: true}, nil
		}
		grants.Add(1)
		return Loaded{User: k.user, Tenant: k.slug}, nil
	}))
	cfg.Capacity, cfg.Denials = 2*members, 256
	c := New(cfg)
	defer c.Close()
	ask := func(k key) {
		if _, err := c.Get(t.Context(), k, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	crowd := make([]key, members)
	for i := range crowd {
		crowd[i] = key{fmt.Sprint("member", i), "acme"}
		ask(crowd[i])
	}
	grants.Store(0)
	for i := range asked {
		name := key{"eve", fmt.Sprint("no-", i)}
		ask(name)
		ask(name)
		ask(crowd[i%members])
	}
	if n := grants.Load(); n > asked/100 {
		t.Errorf("%d of %d lookups of members missed", n, asked)
	}
	if n := denials.Load(); n != asked {
		t.Errorf("%d loads for %d names that were asked for twice each", n, asked)
	}
	if s := c.Stats(); s.Entries != members || s.Denials > 256 {
		t.Errorf("stats = %+v", s)
	}
}
