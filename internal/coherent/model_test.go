package coherent

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"time"
)

// key names a user and a tenant as a request does: neither is an id. Without a tenant it names the user
// alone.
type key struct{ user, slug string }

func own(k key) key       { return k }
func caller(k key) key    { return key{user: k.user} }
func alike(a, b key) bool { return (a.slug == "") == (b.slug == "") }

// baseConfig is a configuration whose bounds no test meets by accident.
func baseConfig[V any](load func(context.Context, []Load[key, V])) Config[key, V] {
	return Config[key, V]{
		Load: load, Hash: maphash.Comparable[key], Own: own, Caller: caller, Alike: alike, Capacity: 4096,
		Denials:      64,
		MaxStaleness: time.Hour, MaxStaleIfDown: time.Hour, MaxAge: time.Hour, DenialAge: time.Hour,
		LoadTimeout: time.Minute, MaxLoads: 4, MaxBatch: 16,
	}
}

// each is a loader that loads a batch's keys one after the other.
func each(load func(context.Context, key, *int) (Loaded, error)) func(context.Context, []Load[key, int]) {
	return func(ctx context.Context, batch []Load[key, int]) {
		for i := range batch {
			l := &batch[i]
			l.Loaded, l.Err = load(ctx, l.Key, l.Value)
		}
	}
}

// fact is what a load returns: which version of each part it saw.
type fact struct {
	key     key
	granted bool
	parts   map[string]int // part → version
}

// model is a database with a memory: it knows which version of each part was current when. Versions only
// grow.
type model struct {
	mu       sync.Mutex
	versions map[string][]time.Time // part → when each version was committed; version 0 is from the beginning
	applied  map[string][]time.Time // part → when the cache was told of each version; zero: not yet
	users    map[string]string      // name → id, while the user exists
	slugs    map[string]string      // slug → tenant id
	plans    map[string]string      // tenant id → plan
	members  map[[2]string]bool     // (user id, tenant id) → active
	pending  []change               // committed, not yet told
	next     int
	down     bool
	cut      bool // the feed alone can't reach the database
	fault    string
	delay    time.Duration // of a load, before and after it reads
	loading  map[key]int
	inFlight int      // batches
	batch    int      // the most keys of one
	broken   []string // what the model itself found wrong
}

// change is what the feed reports.
type change struct {
	tell    func(*Cache[key, fact])
	part    string
	version int
}

func newModel() *model {
	return &model{
		versions: map[string][]time.Time{}, applied: map[string][]time.Time{}, users: map[string]string{},
		slugs: map[string]string{}, plans: map[string]string{}, members: map[[2]string]bool{},
		loading: map[key]int{},
	}
}

// commit notes a new version of a part and what the feed will say of it.
func (m *model) commit(part string, tell func(*Cache[key, fact])) {
	if len(m.versions[part]) == 0 {
		m.versions[part], m.applied[part] = []time.Time{{}}, []time.Time{{}}
	}
	m.versions[part] = append(m.versions[part], time.Now())
	m.applied[part] = append(m.applied[part], time.Time{})
	m.pending = append(m.pending, change{tell, part, len(m.versions[part]) - 1})
}

func (m *model) newID(kind string) string {
	m.next++
	return fmt.Sprintf("%s-%d", kind, m.next)
}

// mutate commits one change of the given kind. Every kind changes what some key's load returns, or only its
// version.
func (m *model) mutate(kind int, user, slug string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	uid, tid := m.users[user], m.slugs[slug]
	switch kind % 7 {
	case 0: // the user comes or goes
		if uid == "" {
			uid = m.newID("user")
			m.users[user] = uid
		} else {
			delete(m.users, user)
		}
		m.commit("user "+user, func(c *Cache[key, fact]) { c.UserChanged(uid) })
	case 1: // the tenant comes, or gives its name up
		if tid == "" {
			tid = m.newID("tenant")
			m.slugs[slug], m.plans[tid] = tid, "plan-"+slug
		} else {
			delete(m.slugs, slug)
		}
		m.commit("tenant "+slug, func(c *Cache[key, fact]) { c.TenantChanged(tid) })
	case 2, 3: // the membership is given or taken
		if uid == "" || tid == "" {
			return
		}
		m.members[[2]string{uid, tid}] = !m.members[[2]string{uid, tid}]
		m.commit("member "+uid+" "+tid, func(c *Cache[key, fact]) { c.MembershipChanged(uid, tid) })
		m.commit("memberships of "+uid, func(c *Cache[key, fact]) { c.MembershipChanged(uid, tid) })
	case 4: // the subscription changes
		if tid == "" {
			return
		}
		m.commit("subscription "+tid, func(c *Cache[key, fact]) { c.SubscriptionChanged(tid) })
	case 5: // the price list changes
		if tid == "" {
			return
		}
		plan := m.plans[tid]
		m.commit("plan "+plan, func(c *Cache[key, fact]) { c.PlanChanged(plan) })
	case 6: // the tenant is migrated, or closed, or opened
		if tid == "" {
			return
		}
		m.commit("tenant "+slug, func(c *Cache[key, fact]) { c.TenantChanged(tid) })
	}
}

// settle makes every user a member of every tenant.
func (m *model) settle() {
	for _, user := range []string{"name0", "name1"} {
		m.mutate(0, user, "")
	}
	for _, slug := range []string{"slug0", "slug1"} {
		m.mutate(1, "", slug)
		for _, user := range []string{"name0", "name1"} {
			m.mutate(2, user, slug)
		}
	}
}

// read is one snapshot of a key's parts.
func (m *model) read(k key) (fact, Loaded) {
	uid, tid := m.users[k.user], m.slugs[k.slug]
	f := fact{key: k, parts: map[string]int{}}
	see := func(part string) { f.parts[part] = max(0, len(m.versions[part])-1) }
	see("user " + k.user)
	if k.slug == "" {
		return f, m.readUser(&f, uid, see)
	}
	see("tenant " + k.slug)
	l := Loaded{User: uid, Tenant: tid, AnyUser: uid == "", AnyTenant: tid == ""}
	if uid != "" && tid != "" {
		see("member " + uid + " " + tid)
		f.granted = m.members[[2]string{uid, tid}]
	}
	if f.granted {
		see("subscription " + tid)
		see("plan " + m.plans[tid])
		l.Plans = []string{m.plans[tid]}
	}
	l.Denied = !f.granted
	return f, l
}

// readUser reads a user alone, and in which tenants they are.
func (m *model) readUser(f *fact, uid string, see func(part string)) Loaded {
	l := Loaded{User: uid, AnyUser: uid == "", Denied: uid == ""}
	if uid == "" {
		return l
	}
	f.granted = true
	see("memberships of " + uid)
	for slug, tid := range m.slugs {
		if m.members[[2]string{uid, tid}] {
			see("tenant " + slug)
			l.Tenants = append(l.Tenants, tid)
		}
	}
	return l
}

var errDown = errors.New("the database is down")

// load is the cache's loader: slow, failing and misbehaving on demand.
func (m *model) load(ctx context.Context, batch []Load[key, fact]) {
	fault, delay := m.begin(batch)
	defer m.end(batch)
	if !pause(ctx, delay) {
		fail(batch, ctx.Err())
		return
	}
	switch fault {
	case "panic":
		panic("the loader panics")
	case "exit":
		runtime.Goexit()
	case "hang":
		<-ctx.Done()
		fail(batch, ctx.Err())
		return
	}
	m.mu.Lock()
	for i := range batch {
		*batch[i].Value, batch[i].Loaded = m.read(batch[i].Key)
	}
	down := m.down
	m.mu.Unlock()
	if down {
		fail(batch, errDown)
	} else if !pause(ctx, delay) { // the answer travels while the world goes on
		fail(batch, ctx.Err())
	}
}

// fail answers a whole batch.
func fail(batch []Load[key, fact], err error) {
	for i := range batch {
		batch[i].Err = err
	}
}

// begin notes what a batch asks for, and returns how its load misbehaves.
func (m *model) begin(batch []Load[key, fact]) (fault string, delay time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range batch {
		if m.loading[l.Key]++; m.loading[l.Key] > 1 {
			m.broken = append(m.broken, fmt.Sprintf("two loads of %v at once", l.Key))
		}
		if !alike(l.Key, batch[0].Key) {
			m.broken = append(m.broken, "a batch of keys that aren't alike")
		}
	}
	if m.inFlight++; m.inFlight > maxLoads {
		m.broken = append(m.broken, "more loads at once than MaxLoads")
	}
	if len(batch) == 0 || len(batch) > m.batch {
		m.broken = append(m.broken, fmt.Sprintf("a batch of %d", len(batch)))
	}
	fault, m.fault = m.fault, ""
	return fault, m.delay
}

// end notes that a batch has ended.
func (m *model) end(batch []Load[key, fact]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range batch {
		m.loading[l.Key]--
	}
	m.inFlight--
}

// pause waits; false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// poll is one poll of the feed. It takes its snapshot, then time passes, then it reports.
func (m *model) poll(c *Cache[key, fact], travel time.Duration) {
	began := time.Now()
	m.mu.Lock()
	if m.down || m.cut {
		m.mu.Unlock()
		return
	}
	found := slices.Clone(m.pending) // also what another poll is about to report
	m.mu.Unlock()
	time.Sleep(travel)
	for _, change := range found {
		change.tell(c)
	}
	m.mu.Lock()
	for _, change := range found {
		if told := &m.applied[change.part][change.version]; told.IsZero() {
			*told = time.Now()
		}
	}
	m.pending = slices.DeleteFunc(m.pending,
		func(c change) bool { return !m.applied[c.part][c.version].IsZero() })
	m.mu.Unlock()
	c.Polled(began)
}

// lose tells the cache of everything at once what it would have told one by one.
func (m *model) lose(c *Cache[key, fact]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Reset()
	for _, change := range m.pending {
		m.applied[change.part][change.version] = time.Now()
	}
	m.pending = nil
}

// judge says what is wrong with an answer that was asked for at one time and given at another.
func (m *model) judge(k key, f fact, asked, given time.Time, bound time.Duration) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.key != k {
		return fmt.Sprintf("asked for %v, got the facts served for %v", k, f.key)
	}
	for part, seen := range f.parts {
		history := m.versions[part]
		if seen+1 >= len(history) {
			continue // still current
		}
		if late := given.Sub(history[seen+1]); late > bound {
			return fmt.Sprintf("%v: version %d of %q served %v after it was replaced; the bound is %v",
				k, seen, part, late, bound)
		}
		for newer := seen + 1; newer < len(history); newer++ {
			if told := m.applied[part][newer]; !told.IsZero() && told.Before(asked) {
				return fmt.Sprintf("%v: version %d of %q served %v after the cache was told of version %d",
					k, seen, part, asked.Sub(told), newer)
			}
		}
	}
	return ""
}
