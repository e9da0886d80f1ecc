// Package intern lets those who hold equal values share one copy.
package intern

import (
	"reflect"
	"runtime"
	"sync"
	"weak"
)

// Table finds the value that was filed last for each id, while somebody holds it.
type Table[T any] struct {
	mu   sync.Mutex // guards byID
	byID map[string]weak.Pointer[T]
}

// One returns the value filed for an id where it is the same, else the given one, which is filed from now on.
func (s *Table[T]) One(id string, v *T) *T {
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
func (s *Table[T]) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id].Value() == nil {
		delete(s.byID, id)
	}
}

// Len returns how many ids have a value that somebody holds, or held a moment ago.
func (s *Table[T]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}
