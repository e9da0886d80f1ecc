package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// PoolConfig describes a Pool. Every zero value is safe.
type PoolConfig struct {
	// SQLiteDir is the folder of the tenants' SQLite files, for db_urls that are relative ("sqlite:NAME.db").
	// Default "tenants". It is created when first needed.
	SQLiteDir string
	// MaxOpenSQLite is how many SQLite tenants may be open at once; those without a running statement, open
	// transaction or unread rows close for others. Each takes up to 2·(1+SQLiteReaders)+1 file handles.
	// Default 256, and no more than take two thirds of the handles that the process may have (RLIMIT_NOFILE).
	// NewPool fails where they are more than it may have.
	MaxOpenSQLite int
	// SQLiteReaders is how many connections ReadDB may open for each tenant. Default 2.
	SQLiteReaders int
	// MaxConns is the budget of connections to each PostgreSQL server (host:port), whatever the number of its
	// tenants, those being opened and closed included; requests to cancel a query need none. Default 40. It
	// holds for each name of a server: one that db_urls name in two ways, as by its name and by its address,
	// has a budget for each. tenantdb doctor finds such names. Work the budget out from the server:
	//
	//	  max_connections                                                        100
	//	- superuser_reserved_connections, reserved_connections                     3
	//	- what others hold: the host database where it is on this server (its
	//	  own pool), the fleet's command line and migrations, psql, monitoring    17
	//	= MaxConns, for all processes together                                    80
	//
	// and set Processes to the processes that there may be at once: in a rolling deployment the old and the
	// new ones.
	//
	// Where a pooler such as PgBouncer stands before the server, db_url names the pooler, and what is counted
	// are its clients: keep the budget below its max_client_conn. How many connections the server has is the
	// pooler's matter then (default_pool_size for each role and database, max_db_connections), and so is who
	// waits for them.
	//
	// A db_url that names several hosts, of which one serves, is one server to the budget, whatever the order
	// of the hosts: none of them sees more connections than the budget, also while one takes over from
	// another. Name the same hosts in each db_url of a server; a host that db_urls with other hosts name,
	// too, has a budget for each such list.
	MaxConns int
	// Budgets overrides MaxConns for the servers that it names, by host:port, or host:port,host:port of all
	// hosts.
	Budgets map[string]int
	// MaxConnsPerTenant is how many of them one tenant may have, however many requests it makes. A connection
	// that is being closed counts in MaxConns only. Default: a quarter of the budget, at least 2.
	MaxConnsPerTenant int
	// Processes is how many processes with this configuration share the servers: each takes a budget /
	// Processes, rounded down. Default 1.
	Processes int
	// AcquireTimeout is how long a query waits for a connection before it fails with ErrBusy, or with
	// ErrTenantUnavailable where all that it waits for is an answer of the server. Default 5 s; the query's
	// context may end the wait sooner.
	AcquireTimeout time.Duration
	// ConnectTimeout is how long opening a PostgreSQL connection may take, the TLS handshake and the sign-in
	// included. Queries that wait for it fail with ErrTenantUnavailable then. Give less than AcquireTimeout.
	// A db_url's connect_timeout can only shorten it. Default 2 s.
	ConnectTimeout time.Duration
	// ServerRetry is how long at most a PostgreSQL server that doesn't answer, or that has no place for a
	// connection, is left alone before it is tried again with one. Service is back within ServerRetry +
	// ConnectTimeout of the server's return. Give more where many processes share a server that is slow to
	// start. Default 1 s.
	ServerRetry time.Duration
	// QueryTimeout is how long a statement may take, the reading of its rows included. Each statement of a
	// transaction has that time. A statement that takes longer is cancelled, and [Middleware.WriteError]
	// answers 500 without Retry-After, as it does for PostgreSQL's statement_timeout: on PostgreSQL the error
	// is the server's own (57014). It isn't for [Lease.Session], COPY, nor the wait for a notification. A
	// context's deadline that is sooner counts instead. On SQLite the time is looked at until the first row,
	// and between rows. Default 0: none.
	QueryTimeout time.Duration
	// ResetAlways has every PostgreSQL connection reset between borrowers (see PGX), not only one whose
	// session is known to have changed. It costs a round trip for each query outside a transaction.
	ResetAlways bool
	// SessionPooler says of poolers that stand before PostgreSQL servers that they leave each connection a
	// session of the server for itself, as PgBouncer does with pool_mode=session: connections are used as the
	// server's own then. Without it a pooler is noticed, and taken for one that lends a session for a
	// transaction at a time (pool_mode=transaction). Nothing is prepared by name then, unless db_url asks for
	// it by default_query_exec_mode, and statements that change their session beyond the transaction are
	// refused: SET without LOCAL, LISTEN, advisory locks that a transaction doesn't end, temporary tables.
	// See also MaxConns.
	SessionPooler bool
	// RequireScope refuses queries of requests' handles (those of DB, ReadDB, PG and Cached) whose context
	// has no scope, with ErrNoScope. It is for programs in which a handle that is kept by mistake must not
	// serve another tenant's request even where that gives no context: then nothing else tells for whom a
	// query is. A Lease serves any context still. Functions that close what Cached kept can't query then, and
	// who limits a handle by SetMaxOpenConns finds that database/sql opens connections for those who wait
	// without their context.
	RequireScope bool
	// MaxIdleTenants is how many tenants without a request are remembered, at about 500 bytes each where they
	// have no connection. Default 10,000.
	MaxIdleTenants int
}

// withDefaults fills in what is zero.
func (c PoolConfig) withDefaults() PoolConfig {
	if c.SQLiteDir == "" {
		c.SQLiteDir = "tenants"
	}
	orElse(&c.SQLiteReaders, 2)
	orElse(&c.MaxOpenSQLite, c.affordableSQLite())
	orElse(&c.MaxConns, 40)
	orElse(&c.Processes, 1)
	orElse(&c.MaxIdleTenants, 10_000)
	orElse(&c.AcquireTimeout, 5*time.Second)
	orElse(&c.ConnectTimeout, 2*time.Second)
	orElse(&c.ServerRetry, time.Second)
	return c
}

// handlesPerSQLite is how many file handles an open SQLite tenant takes: each connection has the file and its
// log, and they share the log's index.
func (c PoolConfig) handlesPerSQLite() int { return 2*(1+c.SQLiteReaders) + 1 }

// affordableSQLite is the default of MaxOpenSQLite.
func (c PoolConfig) affordableSQLite() int {
	const most = 256
	limit := handleLimit()
	if limit == 0 || c.SQLiteReaders < 1 {
		return most
	}
	return min(most, max(1, int(limit)*2/3/c.handlesPerSQLite()))
}

// checkHandles refuses a MaxOpenSQLite for which the process hasn't enough file handles.
func (c PoolConfig) checkHandles() error {
	limit, per := handleLimit(), uint64(c.handlesPerSQLite())
	if limit == 0 || uint64(c.MaxOpenSQLite) <= limit/per || c.MaxOpenSQLite == c.affordableSQLite() {
		return nil
	}
	return fmt.Errorf("tenantdb: PoolConfig.MaxOpenSQLite: %d tenants take up to %d file handles each, and the process may have %d: "+
		"lower it, or raise the limit (ulimit -n)", c.MaxOpenSQLite, per, limit)
}

// Pool holds the tenants' databases, each one shared by all who ask, and their connections under a common
// budget.
type Pool struct {
	cfg    PoolConfig
	sqlite *sqliteFiles
	pg     *pgPool
	hosts  *pghosts.Hosts
	roles  roles
	// unchecked are the PostgreSQL hosts that refuse clientChecks.
	unchecked sync.Map

	host    atomic.Pointer[hostdb.DB] // of the Middlewares; nil without one
	crowded atomic.Bool               // there are more tenants than MaxIdleTenants

	mu       sync.Mutex                  // guards what follows; no I/O under it
	tenants  map[string]*tenantDB        // by tenant id, the current generation
	retiring map[*tenantDB]chan struct{} // marked, until their last lease ends and they have closed; the channel, if any, closes then
	all      ring                        // of tenants
	open     ring                        // of those that hold a SQLite file open
	cutoffs  cutoffs
	closed   bool
}

// engine is a tenant's database on one kind of server. Its methods do no I/O but close.
type engine interface {
	writer() lender
	reader() lender     // nil where the writer serves readers too
	native(to use) *PGX // nil where the engine isn't PostgreSQL
	close()
}

// NewPool makes a pool. Nothing is opened before it is needed.
func NewPool(cfg PoolConfig) (*Pool, error) {
	cfg = cfg.withDefaults()
	for field, v := range map[string]int{"MaxOpenSQLite": cfg.MaxOpenSQLite, "SQLiteReaders": cfg.SQLiteReaders, "MaxConns": cfg.MaxConns,
		"Processes": cfg.Processes, "MaxIdleTenants": cfg.MaxIdleTenants, "AcquireTimeout": int(cfg.AcquireTimeout),
		"ConnectTimeout": int(cfg.ConnectTimeout), "ServerRetry": int(cfg.ServerRetry)} {
		if v < 1 {
			return nil, fmt.Errorf("tenantdb: PoolConfig.%s: can't be negative", field)
		}
	}
	if err := cfg.checkHandles(); err != nil {
		return nil, err
	}
	if cfg.QueryTimeout < 0 {
		return nil, errors.New("tenantdb: PoolConfig.QueryTimeout: can't be negative")
	}
	if cfg.MaxConns < cfg.Processes {
		return nil, fmt.Errorf("tenantdb: PoolConfig.MaxConns: %d connections for %d processes leave some without one", cfg.MaxConns, cfg.Processes)
	}
	for server, budget := range cfg.Budgets {
		if !isServer(server) || budget < cfg.Processes {
			return nil, fmt.Errorf("tenantdb: PoolConfig.Budgets: %q: %d: give a host:port at least a connection for each process", server, budget)
		}
	}
	if dir, err := filepath.Abs(cfg.SQLiteDir); err == nil { // whatever becomes of the working directory
		cfg.SQLiteDir = dir
	}
	p := &Pool{cfg: cfg, hosts: pghosts.New(), tenants: make(map[string]*tenantDB), retiring: make(map[*tenantDB]chan struct{})}
	p.all.of = func(t *tenantDB) *place { return &t.place }
	p.open.of = func(t *tenantDB) *place { return &t.engine.(*sqliteDB).place }
	p.sqlite = newSQLiteFiles(cfg, p.closeIdleFile)
	var err error
	if p.pg, err = p.newPGPool(); err != nil {
		return nil, fmt.Errorf("tenantdb: PoolConfig: %w", err)
	}
	return p, nil
}

// isServer reports whether a key of PoolConfig.Budgets names a server.
func isServer(name string) bool {
	for host := range strings.SplitSeq(name, ",") {
		if _, port, err := net.SplitHostPort(host); err != nil || port == "" {
			return false
		}
	}
	return true
}

// sortedHosts names a server as pghosts.Server does.
func sortedHosts(name string) string {
	hosts := strings.Split(name, ",")
	slices.Sort(hosts)
	return strings.Join(hosts, ",")
}

// Format implements fmt.Formatter: a pool is printed by name, since what it holds is secret and changes.
func (p *Pool) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.Pool")
}

// serve has the pool serve a host database's tenants. Another host database has other tenants, and perhaps
// the same ids where one began as a copy, so it is refused.
func (p *Pool) serve(host *hostdb.DB) error {
	for {
		bound := p.host.Load()
		if bound != nil && !sameHost(bound, host) {
			return errors.New("Pool: it serves the Middlewares of another host database; make a Pool for each host database")
		}
		if p.host.CompareAndSwap(bound, host) {
			return nil
		}
	}
}

// sameHost reports whether two handles are of one host database: they are the same, or were opened by the
// same URL. A database in memory is that of one handle.
func sameHost(a, b *hostdb.DB) bool {
	return a == b || a != nil && b != nil && a.URI() == b.URI() && a.URI() != "sqlite::memory:"
}

// Lease returns a lease on a tenant's database as the catalog describes it. A db_url other than before starts
// a new generation: leases of the old one go on (with a SQLite file to its end, on PostgreSQL with
// connections of the new one), nobody else gets it. Where a Middleware of this pool has looked the tenant up,
// its db_url counts instead: nobody knows how old this one is. It fails with ErrTenantUnavailable where
// db_url isn't usable.
func (p *Pool) Lease(tenant *hostdb.TenantCatalog) (*Lease, error) {
	c, err := p.claim(tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	l := new(Lease)
	l.begin(c)
	return l, nil
}

// claim returns a claim on a tenant's database. asOf is when the host database was asked for the row.
func (p *Pool) claim(tenant *hostdb.TenantCatalog, asOf time.Time) (claim, error) {
	p.mu.Lock()
	c, old, err := p.find(tenant, asOf)
	p.mu.Unlock()
	closeAll(old)
	return c, err
}

// find returns a claim on a tenant's database, a new generation where need be. What it returns beside it is
// to be closed. The caller holds p.mu: what is below must learn of generations in the same order.
func (p *Pool) find(tenant *hostdb.TenantCatalog, asOf time.Time) (claim, []*tenantDB, error) {
	if p.closed {
		return claim{}, nil, because(ErrTenantUnavailable, errPoolClosed)
	}
	t, since := p.tenants[tenant.ID], time.Duration(0)
	if !asOf.IsZero() {
		since = asOf.Sub(start)
	}
	if p.cutoffs.refuses(tenant.ID, since) {
		return claim{}, nil, because(ErrTenantUnavailable, errOutdated)
	}
	if t.serves(tenant.DBURL, since) {
		if c, held := t.hold(); held {
			return c, nil, nil
		}
	}
	fresh, err := p.prepare(tenant.ID, tenant.DBURL, since, tenant.SchemaVersion)
	if err != nil {
		return claim{}, nil, because(ErrTenantUnavailable, err)
	}
	var old []*tenantDB
	if t != nil {
		old = p.retire(t)
	}
	c, _ := fresh.hold()
	p.add(fresh)
	return c, append(old, p.surplus()...), nil
}

// add has a database given out from now on. The caller holds p.mu.
func (p *Pool) add(t *tenantDB) {
	t.self.to.Store(t)
	p.tenants[t.id] = t
	p.all.add(t)
}

// slim puts a fresh database, which has no handle, in the place of one without connections, as soon as nobody
// holds it: thousands of tenants may be known that were used once.
func (p *Pool) slim(tenantID string) {
	p.mu.Lock()
	t := p.tenants[tenantID]
	if t == nil || p.closed || !t.heavy() {
		p.mu.Unlock()
		return
	}
	t.slimmed.Store(true) // before leases is read: either this finds none, or the last one's end finds this
	if !t.leases.retireAt(0) {
		p.mu.Unlock()
		return
	}
	// Before the old one closes: what is counted of the tenant goes on.
	fresh, err := p.prepare(t.id, t.url(), t.asOf, t.engine.(*PGX).schema)
	p.forget(t)
	if err == nil {
		p.add(fresh)
	}
	p.mu.Unlock()
	closeAll([]*tenantDB{t})
}

// serves reports whether a database is the one of this db_url, or of one that was learned later. The caller
// holds Pool.mu.
func (t *tenantDB) serves(url hostdb.Secret, asOf time.Duration) bool {
	switch {
	case t == nil:
		return false
	case !t.at(url):
		return asOf < t.asOf
	}
	t.asOf = max(t.asOf, asOf)
	return true
}

// renew has a tenant that the pool holds by another db_url served by this one from now on, and one whose
// schema has changed by connections that know nothing of the former.
func (p *Pool) renew(tenant *hostdb.TenantCatalog, asOf time.Time) {
	if p.migrated(tenant) {
		p.pg.Refresh(tenant.ID)
	}
	if !p.moved(tenant) {
		return
	}
	if c, err := p.claim(tenant, asOf); err == nil {
		c.release()
	} else {
		p.Retire(tenant.ID)
	}
}

// prepare makes a tenant's database without touching it.
func (p *Pool) prepare(id string, url hostdb.Secret, asOf time.Duration, schema int64) (t *tenantDB, err error) {
	t = &tenantDB{pool: p, id: id, asOf: asOf, self: new(shortcut)}
	if path, ok := dburl.File(url.Reveal()); ok {
		t.engine, err = p.sqlite.tenant(path, t)
	} else {
		t.engine, err = newPGTenant(t, url, schema)
	}
	return t, err
}

// surplus retires tenants without a lease while there are more than MaxIdleTenants, and returns those to be
// closed. The caller holds p.mu.
func (p *Pool) surplus() []*tenantDB {
	var unused []*tenantDB
	for len(p.tenants) > p.cfg.MaxIdleTenants {
		t := p.all.victim()
		if t == nil {
			break // all are in use: the next release looks again
		}
		p.forget(t)
		unused = append(unused, t)
	}
	p.crowded.Store(len(p.tenants) > p.cfg.MaxIdleTenants)
	return unused
}

// trim closes the surplus.
func (p *Pool) trim() {
	p.mu.Lock()
	unused := p.surplus()
	p.mu.Unlock()
	closeAll(unused)
}

// opened notes that a tenant's SQLite file takes a place.
func (p *Pool) opened(t *tenantDB) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, leaves := p.retiring[t]; leaves || p.tenants[t.id] == t {
		p.open.add(t)
	}
}

// retire marks a tenant's database: nobody gets it any more. It returns it where no lease keeps it. The
// caller holds p.mu, and closes what is returned without it.
func (p *Pool) retire(t *tenantDB) []*tenantDB {
	p.forget(t)
	if !t.leases.retire() {
		return nil
	}
	return []*tenantDB{t}
}

// forget takes a tenant's database, which is or will be marked, out of what the pool gives out. The caller
// holds p.mu.
func (p *Pool) forget(t *tenantDB) {
	delete(p.tenants, t.id)
	p.all.remove(t)
	p.retiring[t] = nil
}

// closeAll closes databases that nobody holds.
func closeAll(unused []*tenantDB) {
	for _, t := range unused {
		t.self.to.Store(nil)
		t.dropCached()
		if s := t.spares.Load(); s != nil {
			s.close()
		}
		t.engine.close()
		t.outsideScopes().close()
		t.pool.mu.Lock()
		gone := t.pool.retiring[t]
		delete(t.pool.retiring, t)
		if _, ok := t.engine.(*sqliteDB); ok {
			t.pool.open.remove(t)
		}
		t.pool.mu.Unlock()
		if gone != nil {
			close(gone)
		}
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
	return t != nil && !t.at(tenant.DBURL)
}

// migrated notes the version of the schema of a tenant on PostgreSQL, and reports whether it was another one.
// None was known while the database was made.
func (p *Pool) migrated(tenant *hostdb.TenantCatalog) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[tenant.ID]
	if t == nil {
		return false
	}
	pg, ok := t.engine.(*PGX)
	if !ok || pg.schema == tenant.SchemaVersion {
		return false
	}
	known := pg.schema != 0
	pg.schema = tenant.SchemaVersion
	return known
}

// leaving returns what closes as soon as a retired database of a tenant (any, for "") has closed; nil where
// there is none.
func (p *Pool) leaving(tenantID string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, gone := range p.retiring {
		if tenantID != "" && t.id != tenantID {
			continue
		}
		if gone == nil {
			gone = make(chan struct{})
			p.retiring[t] = gone
		}
		return gone
	}
	return nil
}

// Close refuses new leases and closes every database once its leases have ended. When ctx ends first it
// closes the rest by force, so that their queries fail, and the error names the tenants that were still held.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	var unused []*tenantDB
	for _, t := range p.tenants {
		unused = append(unused, p.retire(t)...)
	}
	p.mu.Unlock()
	closeAll(unused)
	for gone := p.leaving(""); gone != nil; gone = p.leaving("") {
		select {
		case <-gone:
		case <-ctx.Done():
			return p.force(ctx)
		}
	}
	return p.pg.Close(ctx)
}

// force closes the databases that are still held, and says whose they are.
func (p *Pool) force(ctx context.Context) error {
	p.mu.Lock()
	held := slices.Collect(maps.Keys(p.retiring))
	p.mu.Unlock()
	var holders []string
	for _, t := range held {
		holders = append(holders, t.id)
		t.engine.close()
	}
	slices.Sort(holders)
	_ = p.pg.Close(ctx) // names the same ones
	return fmt.Errorf("tenantdb: pool closed by force; still held by requests of tenants %s: %w", strings.Join(holders, ", "), ctx.Err())
}

// closeIdleFile closes a SQLite file: with its database where nobody holds that nor held it for a while, else
// one on which nothing runs, whoever holds it. False where there is none.
func (p *Pool) closeIdleFile() bool {
	p.mu.Lock()
	if t := p.open.victim(); t != nil {
		p.forget(t)
		p.mu.Unlock()
		closeAll([]*tenantDB{t})
		return true
	}
	for range p.open.n {
		t := p.open.hand
		p.open.hand = p.open.of(t).next
		if f := t.engine.(*sqliteDB); f.rest() {
			p.open.remove(t)
			p.mu.Unlock()
			f.closeIdle()
			f.files.vacate()
			return true
		}
	}
	p.mu.Unlock()
	return false
}
