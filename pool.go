package tenantdb

import (
	"container/list"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// PoolConfig describes a Pool. Every zero value is safe.
type PoolConfig struct {
	// SQLiteDir is the folder of the tenants' SQLite files, for db_urls that are relative ("sqlite:NAME.db"). Default
	// "tenants". It is created when first needed.
	SQLiteDir string
	// MaxOpenSQLite is how many SQLite tenants may be open at once; idle ones close for others. Default 256. Each takes up to
	// 2·(1+SQLiteReaders)+1 file handles.
	MaxOpenSQLite int
	// SQLiteReaders is how many connections ReadDB may open for each tenant. Default 2.
	SQLiteReaders int
	// MaxConns is the budget of connections to each PostgreSQL server (host:port), whatever the number of its tenants. Default
	// 40.
	MaxConns int
	// MaxConnsPerTenant is how many of them one tenant may have, however many requests it makes. Default: a quarter of the
	// budget, at least 2.
	MaxConnsPerTenant int
	// Replicas is how many processes with this configuration share the servers: each takes MaxConns / Replicas. Default 1.
	Replicas int
	// AcquireTimeout is how long a query waits for a connection before it fails with ErrBusy. Default 5 s; the query's context
	// may end the wait sooner.
	AcquireTimeout time.Duration
	// MaxIdleTenants is how many tenants without a request are remembered. Default 10,000.
	MaxIdleTenants int
}

// withDefaults fills in what is zero.
func (c PoolConfig) withDefaults() PoolConfig {
	if c.SQLiteDir == "" {
		c.SQLiteDir = "tenants"
	}
	orElse(&c.MaxOpenSQLite, 256)
	orElse(&c.SQLiteReaders, 2)
	orElse(&c.MaxConns, 40)
	orElse(&c.Replicas, 1)
	orElse(&c.MaxIdleTenants, 10_000)
	orElse(&c.AcquireTimeout, 5*time.Second)
	return c
}

// Pool holds the tenants' databases: one handle for each, shared by all who ask, and connections under a common budget.
type Pool struct {
	cfg    PoolConfig
	sqlite *sqliteFiles
	pg     *pgPool

	mu       sync.Mutex             // guards what follows and every tenantDB's bookkeeping; no I/O under it
	tenants  map[string]*tenantDB   // by tenant id, the current generation
	retiring map[*tenantDB]struct{} // marked, until their last lease ends and they have closed
	idle     *list.List             // of *tenantDB without a lease, least recently used first
	idleOpen *list.List             // the same for those that hold a SQLite file open
	closed   bool
}

// tenantDB is one generation of a tenant's database. A moved tenant, or one with a new password, gets another.
type tenantDB struct {
	pool   *Pool
	id     string
	url    *hostdb.Secret // a pointer, since fmt follows none of an unexported field
	engine engine

	refs    int           // leases; guarded by Pool.mu, as the next three are
	retired bool          // closes with its last lease
	place   *list.Element // in queue, while refs is 0
	queue   *list.List    // Pool.idle or Pool.idleOpen
	gone    chan struct{} // closed once it has closed

	cache sync.Map // key → *cached
}

// engine is a tenant's database on one kind of server. Its methods do no I/O but close.
type engine interface {
	writer() *sql.DB
	reader() *sql.DB
	native() *PGX // nil where the engine isn't PostgreSQL
	close()
}

// NewPool makes a pool. Nothing is opened before it is needed.
func NewPool(cfg PoolConfig) (*Pool, error) {
	cfg = cfg.withDefaults()
	for field, v := range map[string]int{"MaxOpenSQLite": cfg.MaxOpenSQLite, "SQLiteReaders": cfg.SQLiteReaders, "MaxConns": cfg.MaxConns,
		"Replicas": cfg.Replicas, "MaxIdleTenants": cfg.MaxIdleTenants, "AcquireTimeout": int(cfg.AcquireTimeout)} {
		if v < 1 {
			return nil, fmt.Errorf("tenantdb: PoolConfig.%s: can't be negative", field)
		}
	}
	if cfg.MaxConns < cfg.Replicas {
		return nil, fmt.Errorf("tenantdb: PoolConfig.MaxConns: %d connections for %d replicas leave some without one", cfg.MaxConns, cfg.Replicas)
	}
	p := &Pool{cfg: cfg, tenants: make(map[string]*tenantDB), retiring: make(map[*tenantDB]struct{}), idle: list.New(), idleOpen: list.New()}
	p.sqlite = newSQLiteFiles(cfg, p.closeIdleFile)
	var err error
	if p.pg, err = newPGPool(cfg); err != nil {
		return nil, fmt.Errorf("tenantdb: PoolConfig: %w", err)
	}
	return p, nil
}

// Format implements fmt.Formatter: a pool is printed by name, since what it holds is secret and changes.
func (p *Pool) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.Pool")
}

// Lease is a claim on a tenant's database: it stays open until Release. A lease takes no connection; queries do.
type Lease struct {
	tenant *tenantDB
	once   sync.Once
}

// Lease returns a lease on a tenant's database as the catalog describes it. A db_url other than before starts a new generation:
// leases of the old one go on (with a SQLite file to its end, on PostgreSQL with connections of the new one), nobody else gets
// it. It fails with ErrTenantUnavailable where db_url isn't usable.
func (p *Pool) Lease(tenant *hostdb.TenantCatalog) (*Lease, error) {
	p.mu.Lock()
	if t := p.tenants[tenant.ID]; t != nil && *t.url == tenant.DBURL && !p.closed {
		p.hold(t)
		p.mu.Unlock()
		return &Lease{tenant: t}, nil
	}
	p.mu.Unlock()
	engine, err := p.newEngine(tenant)
	if err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	p.mu.Lock()
	t := p.tenants[tenant.ID]
	if p.closed {
		p.mu.Unlock()
		engine.close()
		return nil, because(ErrTenantUnavailable, errPoolClosed)
	}
	if t != nil && *t.url == tenant.DBURL { // another request was faster
		p.hold(t)
		p.mu.Unlock()
		engine.close()
		return &Lease{tenant: t}, nil
	}
	var old []*tenantDB
	if t != nil {
		old = p.retire(t)
	}
	url := tenant.DBURL // the caller may change its own
	fresh := &tenantDB{pool: p, id: tenant.ID, url: &url, engine: engine, refs: 1, gone: make(chan struct{})}
	p.tenants[fresh.id] = fresh
	p.mu.Unlock()
	closeAll(old)
	return &Lease{tenant: fresh}, nil
}

// newEngine prepares a tenant's database without touching it.
func (p *Pool) newEngine(tenant *hostdb.TenantCatalog) (engine, error) {
	switch scheme, rest, _ := strings.Cut(tenant.DBURL.Reveal(), ":"); scheme {
	case "sqlite":
		return p.sqlite.tenant(rest)
	case "postgres", "postgresql":
		return newPGTenant(p.pg, tenant)
	}
	return nil, errors.New("db_url: begins with neither sqlite: nor postgres://")
}

// hold counts one more lease. The caller holds p.mu.
func (p *Pool) hold(t *tenantDB) {
	t.refs++
	t.leaveQueue()
}

// leaveQueue takes an idle database out of its queue. The caller holds Pool.mu.
func (t *tenantDB) leaveQueue() {
	if t.place != nil {
		t.queue.Remove(t.place)
		t.place = nil
	}
}

// again returns another lease on the same database. Where that has closed, since the lease has ended, the new one is over too.
func (l *Lease) again() *Lease {
	p := l.tenant.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	next := &Lease{tenant: l.tenant}
	if l.tenant.retired && l.tenant.refs == 0 {
		next.once.Do(func() {})
		return next
	}
	p.hold(l.tenant)
	return next
}

// Release ends the lease. Further calls do nothing.
func (l *Lease) Release() {
	l.once.Do(func() { l.tenant.pool.release(l.tenant) })
}

// release counts one lease less and closes what nobody needs.
func (p *Pool) release(t *tenantDB) {
	p.mu.Lock()
	t.refs--
	var unused []*tenantDB
	switch {
	case t.refs > 0:
	case t.retired:
		unused = append(unused, t)
	default:
		t.queue = p.idle
		if p.sqlite.isOpen(t.engine) {
			t.queue = p.idleOpen
		}
		t.place = t.queue.PushBack(t)
		for p.idle.Len() > p.cfg.MaxIdleTenants {
			unused = append(unused, p.retire(p.idle.Front().Value.(*tenantDB))...)
		}
	}
	p.mu.Unlock()
	closeAll(unused)
	p.sqlite.wake()
}

// retire marks a tenant's database: nobody gets it any more. It returns it where no lease keeps it. The caller holds p.mu, and
// closes what is returned without it.
func (p *Pool) retire(t *tenantDB) []*tenantDB {
	t.retired = true
	p.retiring[t] = struct{}{}
	if p.tenants[t.id] == t {
		delete(p.tenants, t.id)
	}
	if t.refs > 0 {
		return nil
	}
	t.leaveQueue()
	return []*tenantDB{t}
}

// closeAll closes databases that nobody holds.
func closeAll(unused []*tenantDB) {
	for _, t := range unused {
		t.dropCached()
		t.engine.close()
		t.pool.mu.Lock()
		delete(t.pool.retiring, t)
		t.pool.mu.Unlock()
		close(t.gone)
	}
}

// held returns the tenants whose databases the pool has.
func (p *Pool) held() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.tenants))
}

// holds reports whether the pool has a tenant's database.
func (p *Pool) holds(tenantID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tenants[tenantID] != nil
}

// moved reports whether the pool has a tenant's database by another db_url.
func (p *Pool) moved(tenant *hostdb.TenantCatalog) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[tenant.ID]
	return t != nil && *t.url != tenant.DBURL
}

// Retire has a tenant's database closed as soon as no lease holds it; whoever comes next opens it anew. It returns at once.
func (p *Pool) Retire(tenantID string) {
	p.mu.Lock()
	var unused []*tenantDB
	if t := p.tenants[tenantID]; t != nil {
		unused = p.retire(t)
	}
	p.mu.Unlock()
	closeAll(unused)
	p.pg.Retire(tenantID)
}

// Drain is Retire that waits until every lease on the tenant's database has ended and it is closed, or ctx has. See to it first
// that nobody is let in any more.
func (p *Pool) Drain(ctx context.Context, tenantID string) error {
	p.Retire(tenantID)
	for {
		t := p.leaving(tenantID)
		if t == nil {
			break
		}
		select {
		case <-t.gone:
		case <-ctx.Done():
			return fmt.Errorf("tenantdb: draining tenant %s: requests still hold its database: %w", tenantID, ctx.Err())
		}
	}
	if err := p.pg.Drain(ctx, tenantID); err != nil {
		return fmt.Errorf("tenantdb: draining tenant %s: %w", tenantID, err)
	}
	return nil
}

// leaving returns a retired database of a tenant (any, for "") that hasn't closed yet.
func (p *Pool) leaving(tenantID string) *tenantDB {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t := range p.retiring {
		if tenantID == "" || t.id == tenantID {
			return t
		}
	}
	return nil
}

// Close refuses new leases and closes every database once its leases have ended. When ctx ends first it closes the rest by
// force, so that their queries fail, and the error names the tenants that were still held.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	var unused []*tenantDB
	for _, t := range p.tenants {
		unused = append(unused, p.retire(t)...)
	}
	p.mu.Unlock()
	closeAll(unused)
	var holders []string
	for t := p.leaving(""); t != nil; t = p.leaving("") {
		select {
		case <-t.gone:
			continue
		case <-ctx.Done():
		}
		p.mu.Lock()
		delete(p.retiring, t)
		p.mu.Unlock()
		holders = append(holders, t.id)
		t.engine.close()
	}
	err := p.pg.Close(ctx)
	if holders != nil {
		return fmt.Errorf("tenantdb: pool closed by force; still held by requests of tenants %s: %w", strings.Join(holders, ", "), ctx.Err())
	}
	return err
}

// closeIdleFile closes the least recently used SQLite database that nobody holds; false where there is none.
func (p *Pool) closeIdleFile() bool {
	p.mu.Lock()
	var unused []*tenantDB
	if first := p.idleOpen.Front(); first != nil {
		unused = p.retire(first.Value.(*tenantDB))
	}
	p.mu.Unlock()
	closeAll(unused)
	return unused != nil
}

// DB returns the tenant's handle for writing; see the function DB.
func (l *Lease) DB() *sql.DB { return l.tenant.engine.writer() }

// ReadDB returns the tenant's handle for reading; see the function ReadDB.
func (l *Lease) ReadDB() *sql.DB { return l.tenant.engine.reader() }

// PG returns the tenant's handle in pgx's shape, nil for a tenant on SQLite.
func (l *Lease) PG() *PGX { return l.tenant.engine.native() }
