package coherent

import "container/list"

// perCaller is how many loads of one caller may run at once.
const perCaller = 8

// queue holds the loads that wait for their turn, in one line per caller. Callers take turns. It is guarded
// by Cache.mu.
type queue[K comparable, V any] struct {
	lines map[K]*line[K, V] // of callers with a load that waits or runs
	order list.List         // of the lines whose next load may begin; the front is next
}

// line is what one caller has asked for.
type line[K comparable, V any] struct {
	caller  K
	waiting list.List     // of flights, in the order in which they came
	flying  int           // loads that run
	place   *list.Element // in queue.order; nil where nothing may begin
}

// add appends a flight to its caller's line.
func (q *queue[K, V]) add(f *flight[K, V], caller K) {
	l := q.lines[caller]
	if l == nil {
		l = &line[K, V]{caller: caller}
		q.lines[caller] = l
	}
	f.line, f.place = l, l.waiting.PushBack(f)
	q.place(l)
}

// place puts a line into the order or takes it out, and forgets a line that has no load.
func (q *queue[K, V]) place(l *line[K, V]) {
	ready := l.waiting.Len() > 0 && l.flying < perCaller
	switch {
	case ready && l.place == nil:
		l.place = q.order.PushBack(l)
	case !ready && l.place != nil:
		q.order.Remove(l.place)
		l.place = nil
	}
	if l.waiting.Len() == 0 && l.flying == 0 {
		delete(q.lines, l.caller)
	}
}

// take returns the loads of the next batch: up to n that are alike, from each caller in turn. It returns nil
// if none may begin.
func (q *queue[K, V]) take(n int, alike func(a, b K) bool) []*flight[K, V] {
	var batch []*flight[K, V]
	for at := q.order.Front(); at != nil && len(batch) < n; {
		l := at.Value.(*line[K, V])
		f := l.waiting.Front().Value.(*flight[K, V])
		next := at.Next()
		if len(batch) == 0 || alike(batch[0].key, f.key) {
			batch = append(batch, f)
			l.waiting.Remove(f.place)
			f.place = nil
			l.flying++
			if q.place(l); l.place != nil { // it has more, which come after the others
				q.order.MoveToBack(at)
				if next == nil {
					next = at
				}
			}
		}
		at = next
	}
	return batch
}

// remove takes a flight out of its line. It returns false if the load has begun.
func (q *queue[K, V]) remove(f *flight[K, V]) bool {
	if f.place == nil {
		return false
	}
	f.line.waiting.Remove(f.place)
	f.place = nil
	q.place(f.line)
	return true
}

// landed notes that a flight's load has ended.
func (q *queue[K, V]) landed(f *flight[K, V]) {
	f.line.flying--
	q.place(f.line)
}
