package keyedpool

// list is a doubly linked list whose nodes are part of their values. A value leaves it in constant time and
// without allocation.
type list[V any] struct {
	front, back *node[V]
	n           int
}

// node is a value's place in a list. It is in at most one.
type node[V any] struct {
	value      V
	list       *list[V]
	prev, next *node[V]
}

// first returns the value at the front, or the zero value.
func (l *list[V]) first() (v V) {
	if l.front != nil {
		v = l.front.value
	}
	return v
}

// push puts a node, which is in no list, at the end.
func (l *list[V]) push(e *node[V]) {
	l.insert(e, l.back)
}

// insert puts a node, which is in no list, behind another one; nil: at the front.
func (l *list[V]) insert(e, after *node[V]) {
	e.list, e.prev = l, after
	if after == nil {
		e.next, l.front = l.front, e
	} else {
		e.next, after.next = after.next, e
	}
	if e.next == nil {
		l.back = e
	} else {
		e.next.prev = e
	}
	l.n++
}

// leave takes a node out of its list, if it is in one.
func (e *node[V]) leave() {
	l := e.list
	if l == nil {
		return
	}
	if e.prev == nil {
		l.front = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.back = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.list, e.prev, e.next = nil, nil, nil
	l.n--
}
