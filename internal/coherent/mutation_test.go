package coherent

import (
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/internal/mutant"
)

// mutation is a defect in one place.
func mutation(name, function, old, new string) mutant.Mutation {
	return mutant.Mutation{Name: name, Edits: []mutant.Edit{{Func: function, Old: old, New: new}}}
}

// mutations are defects that the property test must notice.
var mutations = []mutant.Mutation{
	mutation("an entry is stamped after its load",
		"Cache.load", "c.cfg.Load(ctx, loads)", "c.cfg.Load(ctx, loads)\nbegan = c.epochs.now()"),
	mutation("a waiter takes an answer that changed while it loaded",
		"Cache.Get", "c.epochs.valid(&f.entry.stamp) || attempt > 0", "true || attempt > 0"),
	mutation("a poll counts from its end", "Cache.Polled", "instantOf(began)", "instantOf(time.Now())"),
	mutation("MaxStaleIfDown does not bound", "Cache.bearable",
		"staleness(now.since(e.from), now, polled) <= c.cfg.MaxStaleIfDown",
		"staleness(now.since(e.from), now, polled) <= c.cfg.MaxStaleIfDown || true"),
	mutation("the lookup keeps an evicted entry",
		"store.put", "p.forget(to.evict())", "_, e := to.evict()\ne.gone.Store(true)"),
	mutation("the lookup keeps a replaced entry",
		"store.put", "from.Remove(hash)\np.forget(hash, old)", "from.Remove(hash)\nold.gone.Store(true)"),
	mutation("an evicted entry serves those who kept it",
		"store.put", "p.forget(to.evict())",
		"evictedHash, e := to.evict()\np.lookup.Load().drop(evictedHash, e)"),
	mutation("a replaced entry serves those who kept it",
		"store.put", "from.Remove(hash)\np.forget(hash, old)",
		"from.Remove(hash)\np.lookup.Load().drop(hash, old)"),
	mutation("a reset changes nothing", "Cache.Reset", "c.epochs.raise(&c.epochs.reset)", ""),
	mutation("a change of a further tenant changes nothing", "epochs.stamp", "n > 0", "n > 0 && false"),
	{Name: "what is unknown stays unknown", Edits: []mutant.Edit{
		{Func: "Cache.UserChanged", Old: "c.epochs.raise(&c.epochs.anyUser)"},
		{Func: "Cache.TenantChanged", Old: "c.epochs.raise(&c.epochs.anyTenant)"},
	}},
}

func TestMutation_everyOneIsCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package once for each mutation")
	}
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.Name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			// Some defects show in few scenarios: the test runs until it fails, at most ten times.
			out, err := m.Test(t, "-run=^TestCache_servesNothingStalerThanPromised$", "-count=10",
				"-failfast", ".",
				"-rapid.nofailfile", "-rapid.shrinktime=1ms")
			if err == nil {
				t.Fatalf("the property test passed:\n%s", out)
			}
			if !strings.Contains(out, "served") {
				t.Fatalf("it failed for another reason:\n%s", out)
			}
		})
	}
}
