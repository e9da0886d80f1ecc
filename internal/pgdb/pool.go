// Package pgdb is the engine for tenants on PostgreSQL: it opens connections within a budget for each server,
// checks them out, and makes them fit for their next borrower. It knows nothing of requests; package checkout
// tells on whose behalf a connection is taken.
package pgdb

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// Config describes a Pool. All of its numbers and times are required, but for QueryTimeout.
type Config struct {
	// MaxConns is the budget of connections to each server, for this process alone.
	MaxConns int
	// Budgets overrides MaxConns for the servers that it names, as [ServerName] writes them.
	Budgets map[string]int
	// MaxConnsPerTenant is how many of them one tenant may have. 0 stands for keyedpool's default.
	MaxConnsPerTenant int

	AcquireTimeout time.Duration // bounds the wait for a connection
	ConnectTimeout time.Duration // bounds the opening of one
	ServerRetry    time.Duration // bounds the pause of a server that doesn't answer
	QueryTimeout   time.Duration // bounds a statement; 0: nothing does

	// ResetAlways has every connection reset between borrowers.
	ResetAlways bool
	// SessionPooler says that poolers leave each connection a session of the server for itself.
	SessionPooler bool

	// ApplicationName is the first part of application_name, in which the tenant's id follows. "": none.
	ApplicationName string
	// BeforeConnect and AfterConnect are the product's hooks, as PoolConfig describes them. Each may be nil.
	BeforeConnect func(ctx context.Context, tenantID string, cfg *pgx.ConnConfig) error
	AfterConnect  func(ctx context.Context, tenantID string, conn *pgx.Conn) error

	// OnIdle is called when a tenant has lost its last connection and nobody waits for one.
	OnIdle func(tenantID string)
	// PasswordRefused is called when a server refused a tenant's password, before the attempt fails: the
	// db_url may have changed, and the change not have arrived yet. If it calls [Pool.Open] with the new
	// db_url, the callers that wait for this attempt wait for the next one instead.
	PasswordRefused func(ctx context.Context, tenantID string)
	// Observer, if set, is told what happens to connections. Errors of waits are refusals.
	Observer *keyedpool.Observer
}

// Pool holds the connections to the databases of all tenants. It is safe for concurrent use.
type Pool struct {
	cfg   Config
	conns *keyedpool.Pool[hostdb.Secret, *pooledConn]
	hosts *pghosts.Hosts
	roles roleConns
	hooks hooks
	// unchecked are the hosts that refuse clientChecks.
	unchecked sync.Map
}

// New returns a Pool. It opens nothing.
func New(cfg Config) (*Pool, error) {
	p := &Pool{cfg: cfg, hosts: pghosts.New()}
	var err error
	p.conns, err = keyedpool.New(keyedpool.Config[hostdb.Secret, *pooledConn]{
		Dial:              p.dial,
		Close:             closeConn,
		BeforeForcedClose: func(c *pooledConn) { c.abandoned.Store(true) },
		Server:            func(_ string, url hostdb.Secret) (string, error) { return server(url) },
		Classify:          classify,
		OnDormant:         cfg.OnIdle,
		Budget:            cfg.MaxConns,
		Budgets:           cfg.Budgets,
		TenantCap:         cfg.MaxConnsPerTenant,
		AcquireTimeout:    cfg.AcquireTimeout,
		DialTimeout:       cfg.ConnectTimeout,
		ServerRetry:       cfg.ServerRetry,
		Observer:          explained(cfg.Observer),
	})
	return p, err
}

// explained returns the observer with a Wait whose errors are refusals.
func explained(o *keyedpool.Observer) *keyedpool.Observer {
	if o == nil {
		return nil
	}
	own := *o
	own.Wait = func(ctx context.Context, tenant, server string) (context.Context, func(error)) {
		observed, end := o.Wait(ctx, tenant, server)
		return observed, func(err error) {
			if err != nil {
				err = refused(err)
			}
			end(err)
		}
	}
	return &own
}

// ServerName returns the name by which a server is counted, given its host:port, or those of all its hosts
// with commas between them. Their order doesn't matter.
func ServerName(hosts string) string {
	names := strings.Split(hosts, ",")
	slices.Sort(names)
	return strings.Join(names, ",")
}

// Open returns the database of a tenant by its address. It opens no connection. An address other than before
// replaces the former for all of the tenant's DBs: the last call counts.
func (p *Pool) Open(t *checkout.Tenant, url hostdb.Secret) (*DB, error) {
	db := &DB{tenant: t, pool: p}
	var err error
	if db.lease, err = p.conns.Lease(t.ID, url); err != nil {
		return nil, err
	}
	return db, nil
}

// Refresh has a tenant's connections opened anew: those that there are finish their use and serve nobody
// else.
func (p *Pool) Refresh(tenantID string) { p.conns.Refresh(tenantID) }

// Retire closes a tenant's connections once its last DB has closed. It returns at once.
func (p *Pool) Retire(tenantID string) { p.conns.Retire(tenantID) }

// Drain is Retire that waits until the tenant's DBs and connections have closed. Meanwhile Open fails for the
// tenant.
func (p *Pool) Drain(ctx context.Context, tenantID string) error { return p.conns.Drain(ctx, tenantID) }

// Close refuses new DBs, and waits until those that there are and their connections have closed. When ctx
// ends first the connections are closed by force, and the error names their tenants.
func (p *Pool) Close(ctx context.Context) error { return p.conns.Close(ctx) }

// Servers returns the figures of each server, sorted by its name.
func (p *Pool) Servers() []keyedpool.ServerStats { return p.conns.Servers() }
