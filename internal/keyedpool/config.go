package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Config describes a Pool. Dial, Close and Server are required; the zero value of everything else means the
// default that its comment names. The functions run without any lock of the pool held, and may be called by
// several goroutines at once.
type Config[T comparable, C any] struct {
	// Dial opens a connection for a tenant. Its context ends after DialTimeout, or earlier when nobody can
	// use the connection any more (a changed target, a shutdown); a caller who gives up does not end it. A
	// Dial that fails must have closed what it opened. A panic counts as a failure of the tenant.
	Dial func(ctx context.Context, tenant string, target T) (C, error)
	// Close ends a connection and returns when the server has seen the end, or when its context has ended
	// (DrainTimeout). The place in the budget is free when it returns, not before. An error, as of an end
	// that nobody confirmed, is counted in ServerStats.Unconfirmed. It is called once for each connection,
	// off every caller's path.
	Close func(ctx context.Context, conn C) error
	// BeforeForcedClose, if set, is called before Close for a connection that a forced shutdown takes from
	// its holder, who may still be using it.
	BeforeForcedClose func(conn C)
	// Server names the server (host:port) behind a target and refuses, with an error, a tenant or a target
	// that is not valid. It is asked before anything changes, and only when the target is new.
	Server func(tenant string, target T) (string, error)
	// OnDormant, if set, is called when a leased tenant has lost its last connection and nobody waits for one.
	OnDormant func(tenant string)
	// Classify tells whose fault a failed Dial is. Nil: the server's.
	Classify func(error) Fault

	// Budget is how many connections a server may have at most, those being opened and closed included.
	// Default 20.
	Budget int
	// Budgets overrides Budget for the servers it names.
	Budgets map[string]int
	// TenantCap is how many connections one tenant may have open at most, in one generation. A connection
	// that is being closed no longer counts; it keeps its place in the budget. Default: a quarter of the
	// budget, at least 2. It is never more than the budget.
	TenantCap int
	// Reserve is how many places of the budget only a tenant without any connection may take. Default: an
	// eighth of the budget. Negative: none.
	Reserve int
	// DialSlots is how many dials may be under way at once on a server. Default 8.
	DialSlots int
	// Turn is how many acquires of its own line a tenant's only connection serves in a row while tenants
	// without any connection wait for its place, and no other is idle. 1 passes the place on at every
	// release: fairest, and a dial for each. Default 8.
	Turn int

	// AcquireTimeout bounds the wait of an Acquire, whatever its context allows. Default 5 s.
	AcquireTimeout time.Duration
	// StealAfter is how long an Acquire waits before an idle connection of another tenant is closed to give
	// the waiting tenant a second one. A tenant with none does not wait for it. Default 50 ms.
	StealAfter time.Duration
	// NestedAfter is how long an Acquire may stay in a deadlock with its own owner before it fails with
	// ErrNested; it leaves parallel work of one owner the time to finish. Default 1 s.
	NestedAfter time.Duration
	// DialTimeout bounds a Dial. Default 5 s.
	DialTimeout time.Duration
	// DrainTimeout bounds a Close. Default 2 s.
	DrainTimeout time.Duration
	// IdleTimeout is how long a connection may lie idle. Jittered downwards by up to a fifth. Default 5 min.
	IdleTimeout time.Duration
	// MaxLifetime is the age at which a connection is closed instead of used again. Jittered downwards by up
	// to a fifth. Default 1 h.
	MaxLifetime time.Duration

	// BackoffMin is the pause of a tenant's dials after its first failure, and of a server's after its
	// breaker opened or it had no place. It doubles, with jitter, up to BackoffMax for a tenant and
	// ServerRetry for a server. Default 100 ms.
	BackoffMin time.Duration
	// BackoffMax bounds the pause of a tenant's dials: a database that was mended is back within it. Default
	// 4 s.
	BackoffMax time.Duration
	// ServerRetry bounds the pause of a server's dials, however long it has been away or full. Default 1 s.
	ServerRetry time.Duration
	// BreakerThreshold is how many failures of a server in a row open its breaker. Default 5.
	BreakerThreshold int
}

// Fault tells whose fault a failed Dial is.
type Fault uint8

const (
	// ServerFault: the server does not answer, or not properly. Enough of them in a row open its breaker.
	ServerFault Fault = iota
	// TenantFault: this tenant's database or credentials. Only the tenant backs off.
	TenantFault
	// Backpressure: the server has no place for the moment. Nobody is at fault; its dials pause.
	Backpressure
	// TenantFull: the server has no place for this tenant, whatever it has for others. Its dials pause, and
	// those in its line wait.
	TenantFull
	// TenantAway: none of the servers that the tenant may use serves now. Its dials pause for ServerRetry at
	// most.
	TenantAway
)

// withDefaults returns the configuration with every zero value replaced, or what is wrong with it.
func (c Config[T, C]) withDefaults() (Config[T, C], error) {
	if c.Dial == nil || c.Close == nil || c.Server == nil {
		return c, errors.New("keyedpool: Config needs Dial, Close and Server")
	}
	if c.Classify == nil {
		c.Classify = func(error) Fault { return ServerFault }
	}
	for _, n := range []struct {
		value    *int
		fallback int
		name     string
	}{
		{&c.Budget, 20, "Budget"}, {&c.DialSlots, 8, "DialSlots"}, {&c.Turn, 8, "Turn"},
		{&c.BreakerThreshold, 5, "BreakerThreshold"}, {&c.TenantCap, 0, "TenantCap"},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("keyedpool: Config.%s is negative", n.name)
		}
		if *n.value == 0 {
			*n.value = n.fallback
		}
	}
	for server, budget := range c.Budgets {
		if budget < 1 {
			return c, fmt.Errorf("keyedpool: Config.Budgets gives %s no connection", server)
		}
	}
	return c, c.fillDurations()
}

// fillDurations replaces the durations that are zero.
func (c *Config[T, C]) fillDurations() error {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
		name     string
	}{
		{&c.AcquireTimeout, 5 * time.Second, "AcquireTimeout"},
		{&c.StealAfter, 50 * time.Millisecond, "StealAfter"},
		{&c.NestedAfter, time.Second, "NestedAfter"},
		{&c.DialTimeout, 5 * time.Second, "DialTimeout"},
		{&c.DrainTimeout, 2 * time.Second, "DrainTimeout"},
		{&c.IdleTimeout, 5 * time.Minute, "IdleTimeout"},
		{&c.MaxLifetime, time.Hour, "MaxLifetime"},
		{&c.BackoffMin, 100 * time.Millisecond, "BackoffMin"},
		{&c.BackoffMax, 4 * time.Second, "BackoffMax"},
		{&c.ServerRetry, time.Second, "ServerRetry"},
	} {
		if *d.value < 0 {
			return fmt.Errorf("keyedpool: Config.%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	return nil
}

// budget returns the budget of a server.
func (c *Config[T, C]) budget(server string) int {
	if n, ok := c.Budgets[server]; ok {
		return n
	}
	return c.Budget
}

// tenantCap returns how many connections a tenant may have under a budget.
func (c *Config[T, C]) tenantCap(budget int) int {
	if c.TenantCap > 0 {
		return min(c.TenantCap, budget)
	}
	return min(max(2, budget/4), budget)
}

// reserve returns how many places of a budget are kept for tenants without any connection.
func (c *Config[T, C]) reserve(budget int) int {
	switch {
	case c.Reserve < 0:
		return 0
	case c.Reserve == 0:
		return budget / 8
	}
	return min(c.Reserve, budget-1)
}

// sweepInterval is short enough that the limits' jitter (a tenth at least) covers the delay until a sweep
// notices.
func (c *Config[T, C]) sweepInterval() time.Duration {
	return max(min(c.IdleTimeout, c.MaxLifetime, 50*time.Second)/10, time.Millisecond)
}
