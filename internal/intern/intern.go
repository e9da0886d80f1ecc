// Package intern shares one copy among those who hold equal values.
package intern

import (
	"reflect"
	"runtime"
	"sync"
	"weak"
)

// Table has the last value of each id, for as long as somebody else holds the value. The zero Table is empty.
// A Table is safe for concurrent use, and must not be copied.
//
// Pending cleanups keep a Table reachable, so it must not be part of something that holds its values.
type Table[T any] struct {
	mu   sync.Mutex // guards byID
	byID map[string]weak.Pointer[T]
}

// One returns the table's value for an id if it is deeply equal to v. Otherwise v becomes the table's value,
// and One returns v. Nobody may change v afterwards.
func (t *Table[T]) One(id string, v *T) *T {
	t.mu.Lock()
	shared := t.byID[id].Value()
	t.mu.Unlock()
	if shared != nil && reflect.DeepEqual(shared, v) {
		return shared
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[string]weak.Pointer[T])
	}
	t.byID[id] = weak.Make(v)
	runtime.AddCleanup(v, t.forget, id)
	return v
}

// forget removes an id, unless it has another value by now.
func (t *Table[T]) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id].Value() == nil {
		delete(t.byID, id)
	}
}

// Len returns the number of ids. An id whose value nobody holds any more may count until the next garbage
// collection.
func (t *Table[T]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}
