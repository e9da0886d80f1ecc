package keyedpool

import (
	"context"
	"flag"
	"testing"

	"pgregory.net/rapid"
)

// scenarios is how many scenarios TestInvariants plays; -rapid.checks overrides it.
const scenarios = "20000"

// broken begins the report of a scenario in which an invariant did not hold, which a panic's or a data race's
// does not.
const broken = "an invariant is broken:"

func TestPool_keepsItsInvariantsInEveryScenario(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		if err := flag.Set("rapid.checks", scenarios); err != nil {
			t.Fatal(err)
		}
		defer flag.Set("rapid.checks", checks.DefValue)
	}
	seen := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		if err := play(t, drawPlan(rt), seen); err != nil {
			rt.Fatal(broken, err)
		}
	})
	t.Log(seen)
	for _, what := range []string{
		"scenarios", "grants", "opens", "steals", "failures", "unconfirmed", "shared waits", "forced closes",
		"peaceful closes",
		ErrBusy.Error(), ErrNested.Error(), ErrTenantUnavailable.Error(), ErrServerUnavailable.Error(),
		ErrClosed.Error(),
		context.Canceled.Error(),
	} {
		if seen[what] < seen["scenarios"]/500 {
			t.Errorf("%q was seen %d times in %d scenarios: they don't put it to the test", what, seen[what],
				seen["scenarios"])
		}
	}
}
