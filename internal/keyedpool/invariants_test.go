package keyedpool

import (
	"flag"
	"testing"

	"pgregory.net/rapid"
)

// scenarios is how many scenarios TestInvariants plays; -rapid.checks overrides it.
const scenarios = "20000"

func TestInvariantsHoldInEveryScenario(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		if err := flag.Set("rapid.checks", scenarios); err != nil {
			t.Fatal(err)
		}
		defer flag.Set("rapid.checks", checks.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		if err := play(t, drawPlan(rt)); err != nil {
			rt.Fatal(err)
		}
	})
}
