package intern_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/internal/intern"
)

// row is a value that isn't comparable by ==.
type row struct {
	name  string
	parts []string
}

func newRow(name string) *row { return &row{name, []string{name}} }

func TestTable_One_returnsTheSharedCopyOfAnEqualValue(t *testing.T) {
	var table intern.Table[row]
	first := newRow("a")
	if got := table.One("1", first); got != first {
		t.Errorf("the first value became %p, want %p", got, first)
	}
	if got := table.One("1", newRow("a")); got != first {
		t.Errorf("an equal value became %p, want %p", got, first)
	}
	other := newRow("a")
	if got := table.One("2", other); got != other {
		t.Error("two ids share a value")
	}
	runtime.KeepAlive(first)
}

func TestTable_One_replacesAValueThatDiffers(t *testing.T) {
	var table intern.Table[row]
	old, changed := newRow("a"), newRow("b")
	table.One("1", old)
	if got := table.One("1", changed); got != changed {
		t.Error("a value that differs was not returned")
	}
	if got := table.One("1", newRow("b")); got != changed {
		t.Error("the new value is not shared")
	}
	if n := table.Len(); n != 1 {
		t.Errorf("the table has %d ids, want 1", n)
	}
	runtime.KeepAlive(old)
	runtime.KeepAlive(changed)
}

func TestTable_forgetsValuesThatNobodyHolds(t *testing.T) {
	var table intern.Table[row]
	held := table.One("held", newRow("a"))
	for i := range 100 {
		table.One(fmt.Sprint(i), newRow("b"))
	}
	waitForLen(t, &table, 1)
	if got := table.One("held", newRow("a")); got != held {
		t.Error("a value that is held was forgotten")
	}
	runtime.KeepAlive(held)
}

// TestTable_keepsAnIDWhoseValueWasReplaced runs the cleanup of the old value while the id has a new one.
func TestTable_keepsAnIDWhoseValueWasReplaced(t *testing.T) {
	var table intern.Table[row]
	table.One("1", newRow("old"))
	changed := table.One("1", newRow("new"))
	table.One("2", newRow("collected too"))
	waitForLen(t, &table, 1)
	if got := table.One("1", newRow("new")); got != changed {
		t.Error("the cleanup of the old value removed the new one")
	}
	runtime.KeepAlive(changed)
}

func TestTable_isSafeForConcurrentUse(t *testing.T) {
	var table intern.Table[row]
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				want := fmt.Sprint((i + j) % 3)
				if got := table.One(fmt.Sprint(j%5), newRow(want)); got.name != want {
					t.Errorf("One(%s) = %s", want, got.name)
				}
			}
		})
	}
	all.Wait()
}

// waitForLen collects garbage until a table has as many ids.
func waitForLen(t *testing.T, table *intern.Table[row], want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); table.Len() != want; {
		if time.Now().After(deadline) {
			t.Fatalf("the table has %d ids, want %d", table.Len(), want)
		}
		runtime.GC()
	}
}
