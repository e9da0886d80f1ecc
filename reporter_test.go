package tenantdb

import (
	"fmt"
	"testing"
	"time"
)

func TestReporter_limitsLinesAndTellsHowManyItLeftOut(t *testing.T) {
	var r reporter
	allow := func(caller string, at time.Time) (int, bool) { return r.allow(reportKey{caller: caller}, at) }
	at := time.Now()
	for i := range 12 {
		if _, ok := allow("a", at); ok != (i < 5) {
			t.Errorf("line %d: %v", i, ok)
		}
	}
	if leftOut, ok := allow("a", at.Add(time.Minute)); !ok || leftOut != 7 {
		t.Errorf("a minute later: %d left out, %v", leftOut, ok)
	}
	if leftOut, ok := allow("a", at.Add(time.Minute)); !ok || leftOut != 0 {
		t.Errorf("and again: %d left out, %v", leftOut, ok)
	}
	for i := range 5000 {
		allow(fmt.Sprint(i), at.Add(2*time.Minute))
	}
	if n := len(r.tallies); n > 1024 {
		t.Errorf("the table holds %d callers", n)
	}
	if leftOut, ok := allow("new", at.Add(3*time.Minute)); !ok || leftOut != 0 {
		t.Errorf("once the flood is over: %d left out, %v", leftOut, ok)
	}
}
