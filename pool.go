package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pgdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
	"github.com/tenantdb/tenantdb/internal/sqlitedb"
)

// Pool holds the tenants' databases, each one shared by all who ask, and their connections under a common
// budget.
type Pool struct {
	cfg    PoolConfig
	shared checkout.Pool // what all tenants have in common
	sqlite *sqlitedb.Files
	pg     *pgdb.Pool
	watch  *poolWatch // nil: nobody observes

	overLimit atomic.Bool // there are more tenants than MaxIdleTenants

	mu      sync.Mutex           // guards what follows; no I/O under it
	tenants map[string]*tenantDB // by tenant id, the current generation
	// retiring are the databases that nobody gets any more, until they have closed. The channel, if any,
	// closes then.
	retiring map[*tenantDB]chan struct{}
	cutoffs  cutoffs
	closed   bool
}

// NewPool makes a pool. It opens nothing: that happens when a query needs it.
func NewPool(cfg PoolConfig) (*Pool, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("tenantdb: PoolConfig.%w", err)
	}
	p := &Pool{cfg: cfg, tenants: make(map[string]*tenantDB), retiring: make(map[*tenantDB]chan struct{})}
	p.shared.RequireScope, p.shared.Forgotten = cfg.RequireScope, cfg.Forgotten
	p.watch = newPoolWatch(cfg.Observer)
	p.sqlite = sqlitedb.New(cfg.sqlite(p.retireUnused, p.watch.conns()))
	postgres := cfg.postgres(p.compact, p.watch.conns())
	postgres.PasswordRefused = p.lookUpAgain
	var err error
	if p.pg, err = pgdb.New(postgres); err != nil {
		return nil, fmt.Errorf("tenantdb: PoolConfig: %w", err)
	}
	return p, nil
}

// Format implements fmt.Formatter. It prints the pool's name: what the pool holds is secret and changes.
func (p *Pool) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.Pool")
}

// SQLiteRoot returns the folder of the tenants' SQLite files, for those who create, rename and remove them.
// It creates the folder if it is missing. The caller closes it.
func (p *Pool) SQLiteRoot() (*os.Root, error) { return p.sqlite.Root() }

// serve binds the pool to a host database. Another one is refused: it has other tenants, and perhaps the same
// ids where one began as a copy.
func (p *Pool) serve(host *hostdb.DB) error {
	for {
		bound := p.shared.Host.Load()
		if bound != nil && !checkout.SameHost(bound, host) {
			return errors.New("Pool: it serves the Middlewares of another host database; " +
				"make a Pool for each host database")
		}
		if p.shared.Host.CompareAndSwap(bound, host) {
			return nil
		}
	}
}

// Lease returns a lease on a tenant's database as the catalog describes it. It takes no connection.
//
// If the db_url has changed, Lease begins a new generation of the database, and new leases get that one.
// Leases of the old one stay valid: on SQLite they keep the old file, on PostgreSQL their next connection
// goes to the new address. If a Middleware of this pool has looked the tenant up, its db_url counts
// instead, since nobody knows how old the given one is.
//
// Lease fails with [ErrTenantUnavailable] if db_url isn't usable or the pool is closed.
func (p *Pool) Lease(tenant *hostdb.TenantCatalog) (*Lease, error) {
	ref, err := p.retain(tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	l := new(Lease)
	l.begin(ref)
	return l, nil
}

// retain returns a counted reference to a tenant's database. asOf is when the host database was asked for the
// row; zero: nobody knows.
func (p *Pool) retain(tenant *hostdb.TenantCatalog, asOf time.Time) (leaseRef, error) {
	p.mu.Lock()
	ref, unused, err := p.retainLocked(tenant, sinceStart(asOf))
	p.mu.Unlock()
	closeAll(unused)
	return ref, err
}

// retainLocked is retain for a caller that holds p.mu: the engines must learn of generations in the same
// order. It begins a new generation if need be. The caller closes the databases that it returns.
func (p *Pool) retainLocked(tenant *hostdb.TenantCatalog, asOf time.Duration) (leaseRef, []*tenantDB, error) {
	if p.closed {
		return leaseRef{}, nil, refusal.WithCause(ErrTenantUnavailable, refusal.ErrPoolClosed)
	}
	if p.cutoffs.refuse(tenant.ID, asOf) {
		return leaseRef{}, nil, refusal.WithCause(ErrTenantUnavailable, errDrained)
	}
	t := p.tenants[tenant.ID]
	if t.serves(tenant.DBURL, asOf) {
		if ref, ok := t.retain(); ok {
			return ref, nil, nil
		}
	}
	fresh, err := p.newTenant(tenant.ID, tenant.DBURL, asOf, tenant.SchemaVersion)
	if err != nil {
		return leaseRef{}, nil, refusal.WithCause(ErrTenantUnavailable, err)
	}
	var unused []*tenantDB
	if t != nil {
		unused = p.retire(t)
	}
	ref, _ := fresh.retain()
	p.add(fresh)
	return ref, append(unused, p.evict()...), nil
}

// serves reports whether a database is the one of this db_url, or of one that was learned later. The caller
// holds Pool.mu.
func (t *tenantDB) serves(url hostdb.Secret, asOf time.Duration) bool {
	switch {
	case t == nil:
		return false
	case t.engine.Target() != url:
		return asOf < t.asOf
	}
	t.asOf = max(t.asOf, asOf)
	return true
}

// newTenant makes a tenant's database without opening it.
func (p *Pool) newTenant(id string, url hostdb.Secret, asOf time.Duration, schema int64) (*tenantDB, error) {
	t := &tenantDB{Tenant: checkout.Tenant{Pool: &p.shared, ID: id}, pool: p, ref: new(dbRef),
		asOf: asOf, schema: schema}
	if path, ok := dburl.File(url.Reveal()); ok {
		file, err := p.sqlite.Open(&t.Tenant, path)
		t.engine = sqliteEngine{file}
		return t, err
	}
	db, err := p.pg.Open(&t.Tenant, url)
	t.engine = pgEngine{db}
	return t, err
}

// add has a database given out from now on. The caller holds p.mu.
func (p *Pool) add(t *tenantDB) {
	t.ref.to.Store(t)
	p.tenants[t.ID] = t
}

// forget takes a database that is or will be retired out of what the pool gives out. The caller holds p.mu.
func (p *Pool) forget(t *tenantDB) {
	delete(p.tenants, t.ID)
	p.retiring[t] = nil
}

// retire marks a tenant's database, so that nobody gets it any more. It returns the database if it has no
// lease. The caller holds p.mu, and closes the database after unlocking it.
func (p *Pool) retire(t *tenantDB) []*tenantDB {
	p.forget(t)
	if !t.Leases.Retire() {
		return nil
	}
	return []*tenantDB{t}
}

// evict retires tenants without a lease while there are more than MaxIdleTenants. It returns those to be
// closed. The caller holds p.mu.
func (p *Pool) evict() (unused []*tenantDB) {
	for len(p.tenants) > p.cfg.MaxIdleTenants {
		t := p.victim()
		if t == nil {
			break // all are in use: the next release evicts
		}
		p.forget(t)
		unused = append(unused, t)
	}
	p.overLimit.Store(len(p.tenants) > p.cfg.MaxIdleTenants)
	return unused
}

// victim retires and returns a database that has no lease, and had none since it was last passed over. It is
// nil if all are in use. A map's order is random, so each search begins elsewhere.
func (p *Pool) victim() *tenantDB {
	for range 2 {
		for _, t := range p.tenants {
			if t.Leases.Count() == 0 && !t.used.Swap(false) && t.Leases.RetireAt(0) {
				return t
			}
		}
	}
	return nil
}

// evictUnused closes tenants beyond MaxIdleTenants.
func (p *Pool) evictUnused() {
	p.mu.Lock()
	unused := p.evict()
	p.mu.Unlock()
	closeAll(unused)
}

// retireUnused closes a tenant's database if it has no lease.
func (p *Pool) retireUnused(tenantID string) {
	p.mu.Lock()
	t := p.tenants[tenantID]
	unused := t != nil && t.Leases.RetireAt(0)
	if unused {
		p.forget(t)
	}
	p.mu.Unlock()
	if unused {
		closeAll([]*tenantDB{t})
	}
}

// compact replaces an unused tenantDB that has no PostgreSQL connection by one without a *sql.DB, which has a
// goroutine. A tenant that is in use is compacted at the end of its last lease. Thousands of tenants may be
// known that were used once.
func (p *Pool) compact(tenantID string) {
	p.mu.Lock()
	t := p.tenants[tenantID]
	if t == nil || p.closed || !t.hasIdleHandle() {
		p.mu.Unlock()
		return
	}
	// Before the leases are read: either there are none, or the end of the last one sees it.
	t.compactLater.Store(true)
	if !t.Leases.RetireAt(0) {
		p.mu.Unlock()
		return
	}
	// The new one is made before the old one closes, so that the tenant's counters go on.
	fresh, err := p.newTenant(t.ID, t.engine.Target(), t.asOf, t.schema)
	p.forget(t)
	if err == nil {
		p.add(fresh)
	}
	p.mu.Unlock()
	t.finish()
}

// closeAll closes databases that are retired and have no lease.
func closeAll(unused []*tenantDB) {
	for _, t := range unused {
		t.finish()
		t.pool.watch.retired(t.ID)
	}
}

// finish closes a database that is retired and has no lease, and tells those who wait for that.
func (t *tenantDB) finish() {
	t.close()
	p := t.pool
	p.mu.Lock()
	closed := p.retiring[t]
	delete(p.retiring, t)
	p.mu.Unlock()
	if closed != nil {
		close(closed)
	}
}

// renew has the pool take over what the host database says of a tenant that it holds: another db_url begins a
// new generation, and after a migration the connections are opened anew.
func (p *Pool) renew(tenant *hostdb.TenantCatalog, asOf time.Time) {
	moved, migrated := p.compare(tenant)
	if migrated {
		p.pg.Refresh(tenant.ID)
	}
	if !moved {
		return
	}
	if ref, err := p.retain(tenant, asOf); err == nil {
		ref.release()
	} else {
		p.Retire(tenant.ID)
	}
}

// compare tells what has changed of a tenant that the pool holds: its db_url, or the version of its schema,
// which it notes. Version 0 isn't compared: the database is still being made.
func (p *Pool) compare(tenant *hostdb.TenantCatalog) (moved, migrated bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[tenant.ID]
	if t == nil {
		return false, false
	}
	migrated = t.schema != 0 && t.schema != tenant.SchemaVersion
	t.schema = tenant.SchemaVersion
	return t.engine.Target() != tenant.DBURL, migrated
}

// lookUpAgain asks the host database for a tenant whose password a server refused: it may have been changed,
// and the change not have been heard of.
func (p *Pool) lookUpAgain(ctx context.Context, tenantID string) {
	host := p.shared.Host.Load()
	if host == nil {
		return
	}
	asked := time.Now()
	if tenant, err := host.Tenants.Get(ctx, tenantID); err == nil {
		p.renew(tenant, asked)
	}
}

// ids returns the tenants whose databases the pool has.
func (p *Pool) ids() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.tenants))
}

// has reports whether the pool has a tenant's database.
func (p *Pool) has(tenantID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tenants[tenantID] != nil
}

// Retire has a tenant's database closed as soon as it has no lease. Whoever comes next opens it anew. Retire
// returns at once.
func (p *Pool) Retire(tenantID string) {
	p.retireAsOf(tenantID, 0)
}

// retireAsOf retires a tenant's database. From now on no request begins on facts from before the cutoff, a
// time since start; zero: none.
func (p *Pool) retireAsOf(tenantID string, cutoff time.Duration) {
	p.mu.Lock()
	if cutoff > 0 {
		p.cutoffs.raise(tenantID, cutoff)
	}
	var unused []*tenantDB
	if t := p.tenants[tenantID]; t != nil {
		unused = p.retire(t)
	}
	p.mu.Unlock()
	closeAll(unused)
	p.pg.Retire(tenantID)
}

// Drain is [Pool.Retire] that waits until every lease on the tenant's database has ended and it is closed, or
// until ctx ends. Change the tenant's row first, so that nobody is let in any more.
//
// Requests of this pool's Middlewares that come after the call of Drain look the tenant up anew, and so do
// those that were let in by then but have no lease yet: none begins on facts from before the call. If the
// host database can't be reached they are refused. [Middleware.Enter] looks the tenant up anew too.
// [Pool.Lease] doesn't, so that whoever drained the tenant can work on its database.
//
// Drain doesn't wait for other processes. Each notices the change within its CacheConfig.MaxStaleness, or
// within MaxStaleIfDown while it is cut off from the host database.
func (p *Pool) Drain(ctx context.Context, tenantID string) error {
	p.retireAsOf(tenantID, time.Since(start))
	if !p.awaitRetired(ctx, tenantID) {
		return fmt.Errorf("tenantdb: draining tenant %s: requests still hold its database: %w",
			tenantID, ctx.Err())
	}
	if err := p.pg.Drain(ctx, tenantID); err != nil {
		return fmt.Errorf("tenantdb: draining tenant %s: %w", tenantID, err)
	}
	return nil
}

// awaitRetired waits until a tenant's retired databases have closed, or all tenants' for "". It reports false
// if ctx ends first.
func (p *Pool) awaitRetired(ctx context.Context, tenantID string) bool {
	for {
		closed := p.retiredOf(tenantID)
		if closed == nil {
			return true
		}
		select {
		case <-closed:
		case <-ctx.Done():
			return false
		}
	}
}

// retiredOf returns what closes as soon as a retired database of a tenant, or of any for "", has closed. It
// is nil if there is none.
func (p *Pool) retiredOf(tenantID string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, closed := range p.retiring {
		if tenantID != "" && t.ID != tenantID {
			continue
		}
		if closed == nil {
			closed = make(chan struct{})
			p.retiring[t] = closed
		}
		return closed
	}
	return nil
}

// Close refuses new leases and closes every database once its leases have ended. If ctx ends first it closes
// the rest by force, so that their queries fail, and the error names the tenants that were still held.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	var unused []*tenantDB
	for _, t := range p.tenants {
		unused = append(unused, p.retire(t)...)
	}
	p.mu.Unlock()
	closeAll(unused)
	if !p.awaitRetired(ctx, "") {
		return p.closeByForce(ctx)
	}
	return p.pg.Close(ctx)
}

// closeByForce closes the databases that still have leases, and says whose they are.
func (p *Pool) closeByForce(ctx context.Context) error {
	p.mu.Lock()
	held := slices.Collect(maps.Keys(p.retiring))
	p.mu.Unlock()
	var holders []string
	for _, t := range held {
		holders = append(holders, t.ID)
		t.engine.Close()
	}
	slices.Sort(holders)
	_ = p.pg.Close(ctx) // it names the same ones
	return fmt.Errorf("tenantdb: pool closed by force; still held by requests of tenants %s: %w",
		strings.Join(holders, ", "), ctx.Err())
}

// errDrained is why a tenant's database isn't given out on facts that are older than the tenant's last Drain.
var errDrained = errors.New("the tenant was drained since it was looked up")

// maxCutoffs bounds how many tenants have a cutoff of their own, at about 100 bytes each.
const maxCutoffs = 4096

// cutoffs say how old the facts may be on which a lease begins. Times are since start. Guarded by Pool.mu.
type cutoffs struct {
	tenants map[string]time.Duration // when each was last drained
	others  time.Duration            // the cutoff of every other tenant
}

// raise refuses a tenant's facts from before a time. A table that is full becomes the cutoff of all tenants,
// whose facts are then loaded once more.
func (c *cutoffs) raise(tenantID string, at time.Duration) {
	if _, known := c.tenants[tenantID]; !known && len(c.tenants) == maxCutoffs {
		for _, other := range c.tenants { // the caller's time may be older than theirs
			c.others = max(c.others, other)
		}
		clear(c.tenants)
	}
	if c.tenants == nil {
		c.tenants = make(map[string]time.Duration)
	}
	c.tenants[tenantID] = max(c.tenants[tenantID], at)
}

// refuse reports whether facts about a tenant are too old. asOf 0 is never refused: Pool.Lease passes it,
// which whoever drained the tenant may call.
func (c *cutoffs) refuse(tenantID string, asOf time.Duration) bool {
	return asOf != 0 && asOf < max(c.tenants[tenantID], c.others)
}

// start is when the process began, for readings of the clock that need no wall time.
var start = time.Now()

// sinceStart is a time since start; zero stays zero.
func sinceStart(at time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	return at.Sub(start)
}
