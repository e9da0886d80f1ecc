package hostdb

import (
	"context"
	"sync"
	"time"
)

// feed is the poller that all Changes loops of a DB share.
type feed struct {
	db      *DB
	pollers sync.WaitGroup

	mu          sync.Mutex // guards the fields below; never held across I/O
	ended       bool
	subscribers map[*subscriber]bool
	stop        context.CancelFunc // ends the running poller
	stopped     chan struct{}      // closed when the poller has ended
	woken       bool
	cancelWait  context.CancelFunc // ends the poller's wait
}

// cursor is a poller's position in an engine's log of changes.
type cursor interface {
	// poll returns what was committed since the last poll. reset means that any row may have changed.
	poll(ctx context.Context) (changes []Change, reset bool, err error)
	// verify returns the faults of what the log rests on. It may be called before the first poll.
	verify(ctx context.Context) ([]Fault, error)
	// wait returns when ctx ends, or earlier if there may be something to poll.
	wait(ctx context.Context)
	// close releases the cursor's resources.
	close()
}

func newFeed(db *DB) *feed {
	return &feed{db: db, subscribers: map[*subscriber]bool{}}
}

// subscribe adds a subscriber. The first one starts the poller.
func (f *feed) subscribe() (*subscriber, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, &failure{kind: ErrUnavailable, text: "the database is closed"}
	}
	sub := &subscriber{ready: make(chan struct{}, 1), fresh: true}
	f.subscribers[sub] = true
	if len(f.subscribers) == 1 {
		ctx, stop := context.WithCancel(context.Background())
		stopped := make(chan struct{})
		f.stop, f.stopped = stop, stopped
		f.pollers.Go(func() {
			defer close(stopped)
			f.run(ctx)
		})
	}
	f.wakeLocked()
	return sub, nil
}

// unsubscribe removes a subscriber. The last one ends the poller and waits for it.
func (f *feed) unsubscribe(sub *subscriber) {
	f.mu.Lock()
	delete(f.subscribers, sub)
	last, stopped := len(f.subscribers) == 0, f.stopped
	if last {
		f.stop()
	}
	f.mu.Unlock()
	if last {
		<-stopped
	}
}

// shutdown ends the feed for good.
func (f *feed) shutdown() {
	f.mu.Lock()
	f.ended = true
	if f.stop != nil {
		f.stop()
	}
	f.mu.Unlock()
	f.pollers.Wait()
}

// wake ends the poller's wait, or its next wait if it is polling.
func (f *feed) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wakeLocked()
}

func (f *feed) wakeLocked() {
	f.woken = true
	if f.cancelWait != nil {
		f.cancelWait()
	}
}

// run polls until ctx ends.
func (f *feed) run(ctx context.Context) {
	if !f.db.isStarted() {
		f.deliver(nil, f.db.notStarted())
	}
	select {
	case <-f.db.started:
	case <-ctx.Done():
		return
	}
	at := f.db.newCursor()
	defer at.close()
	v := &verifier{db: f.db}
	var pruned time.Time
	for {
		started := f.db.config.Now()
		found, err := f.poll(ctx, at, v, started)
		if ctx.Err() != nil {
			return
		}
		f.deliver(found, err)
		if found != nil && started.Sub(pruned) > f.db.config.Retention/4 {
			pruned = started
			if err := f.prune(ctx); err != nil && ctx.Err() == nil {
				f.deliver(nil, err)
			}
		}
		f.pause(ctx, at)
		if ctx.Err() != nil {
			return
		}
	}
}

// prune prunes the log. Polls wait for it, so it may take no longer than one.
func (f *feed) prune(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return f.db.prune(ctx)
}

// pollTimeout limits a poll, so that a server that hangs is reported.
const pollTimeout = 5 * time.Second

// poll verifies if that is due, and polls. While there are faults it returns both what it found, without
// PolledAt, and an error.
func (f *feed) poll(ctx context.Context, at cursor, v *verifier, started time.Time) (*Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	if err := v.verifyIfDue(ctx, at, started); err != nil {
		return nil, translate(ctx, err, asReported)
	}
	changes, reset, err := at.poll(ctx)
	if err != nil {
		return nil, translate(ctx, err, asReported)
	}
	found := &Delivery{PolledAt: started, Changes: changes, Reset: v.needsReset(reset) ||
		len(changes) > maxChanges}
	if found.Reset {
		found.Changes = nil
	}
	if v.err != nil {
		found.PolledAt = time.Time{}
	}
	return found, v.err
}

// pause waits for the poll interval, for Wake, or for a notification.
func (f *feed) pause(ctx context.Context, at cursor) {
	ctx, cancel := context.WithTimeout(ctx, f.db.config.PollInterval)
	defer cancel()
	f.mu.Lock()
	if f.woken {
		cancel()
	}
	f.cancelWait = cancel
	f.mu.Unlock()
	at.wait(ctx)
	f.mu.Lock()
	f.woken, f.cancelWait = false, nil
	f.mu.Unlock()
}

// deliver passes a poll's result to every subscriber.
func (f *feed) deliver(found *Delivery, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub := range f.subscribers {
		sub.put(found, err)
	}
}

// subscriber collects deliveries until its loop takes them.
type subscriber struct {
	ready chan struct{}

	mu      sync.Mutex
	fresh   bool // nothing has been delivered yet
	pending *Delivery
	err     error
}

// put adds a poll's result to what is pending. Subscribers share found.
func (s *subscriber) put(found *Delivery, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if found != nil {
		s.add(*found)
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *subscriber) add(found Delivery) {
	if s.fresh {
		found.Reset = true
		s.fresh = false
	}
	if s.pending != nil {
		found.Reset = found.Reset || s.pending.Reset
		found.Changes = append(s.pending.Changes, found.Changes...)
	}
	if found.Reset = found.Reset || len(found.Changes) > maxChanges; found.Reset {
		found.Changes = nil
	} else {
		found.Changes = found.Changes[:len(found.Changes):len(found.Changes)] // subscribers share the array
	}
	s.pending = &found
}

// take returns what is pending: a delivery, a later error, or both.
func (s *subscriber) take() (*Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, err := s.pending, s.err
	s.pending, s.err = nil, nil
	return pending, err
}
