package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Config describes a [Pool]. Dial, Close and Server are required. The zero value of every other field is its
// default. The functions may be called concurrently. They run without any lock of the pool.
type Config[T comparable, C any] struct {
	// Dial opens a connection for a tenant. Its context ends after DialTimeout, or earlier when nobody can
	// use the connection any more (a changed target, a shutdown). A caller who gives up does not end it. A
	// Dial that fails must close what it opened. A panic counts as the tenant's failure.
	Dial func(ctx context.Context, tenant string, target T) (C, error)
	// Close closes a connection. It returns when the server has seen the end, or when its context has ended
	// (DrainTimeout). Only then is the place in the budget free. An error is counted in
	// [ServerStats].Unconfirmed. Close is called once for each connection, on a goroutine of its own.
	Close func(ctx context.Context, conn C) error
	// BeforeForcedClose, if set, is called before Close for a connection that a forced shutdown takes from
	// its holder, who may still be using it.
	BeforeForcedClose func(conn C)
	// Server returns the name (host:port) of a target's server, or an error if the tenant or the target is
	// not valid. It is called for new targets only, before anything changes.
	Server func(tenant string, target T) (string, error)
	// OnDormant, if set, is called when a leased tenant has lost its last connection and nobody waits for
	// one.
	OnDormant func(tenant string)
	// Classify tells whose fault a failed Dial is. Default: the server's.
	Classify func(error) Fault
	// Observer, if set, is told what happens.
	Observer *Observer

	// Budget bounds the connections to a server, including those being opened and closed. Default: 20.
	Budget int
	// Budgets overrides Budget for the servers it names.
	Budgets map[string]int
	// TenantCap bounds the open connections of one tenant in one generation. A connection that is being
	// closed does not count here, but keeps its place in the budget. Default: a quarter of the budget, at
	// least 2. It is never more than the budget.
	TenantCap int
	// Reserve is how many places of the budget only tenants without a connection may take. Default: an eighth
	// of the budget. Negative means none.
	Reserve int
	// DialSlots bounds the concurrent dials to a server. Default: 8.
	DialSlots int
	// Turn is how many consecutive acquires a tenant's only connection serves before yielding to tenants that
	// have none. 1 is the fairest, and costs a dial for each. Default: 8.
	Turn int

	// AcquireTimeout bounds the wait of an Acquire, whatever its context allows. Default: 5 seconds.
	AcquireTimeout time.Duration
	// StealAfter is how long an Acquire waits before another tenant's idle connection is closed to give the
	// waiting tenant a second one. A tenant's first connection needs no such wait. Default: 50 ms.
	StealAfter time.Duration
	// NestedAfter is how long an Acquire may be deadlocked with its own owner before it fails with
	// [ErrNested]. It gives parallel work of one owner time to finish. Default: 1 second.
	NestedAfter time.Duration
	// DialTimeout bounds a Dial. Default: 5 seconds.
	DialTimeout time.Duration
	// DrainTimeout bounds a Close. Default: 2 seconds.
	DrainTimeout time.Duration
	// IdleTimeout is how long a connection may be idle. It is jittered downwards by up to a fifth. Default: 5
	// minutes.
	IdleTimeout time.Duration
	// MaxLifetime is the age at which a connection is closed instead of reused. It is jittered downwards by
	// up to a fifth. Default: 1 hour.
	MaxLifetime time.Duration

	// BackoffMin is the first pause of a tenant's dials after a failure, and of a server's after its breaker
	// opened or it had no place. It doubles, with jitter, up to BackoffMax for a tenant and ServerRetry for a
	// server. Default: 100 ms.
	BackoffMin time.Duration
	// BackoffMax bounds the pause of a tenant's dials. A database that was repaired is back within it.
	// Default: 4 seconds.
	BackoffMax time.Duration
	// ServerRetry bounds the pause of a server's dials, however long it was down or full. Default: 1 second.
	ServerRetry time.Duration
	// BreakerThreshold is how many consecutive failures of a server open its breaker. Default: 5.
	BreakerThreshold int
}

// Fault tells whose fault a failed Dial is.
type Fault uint8

const (
	// ServerFault means that the server does not answer, or not properly. Enough in a row open its breaker.
	ServerFault Fault = iota
	// TenantFault means that the tenant's database or credentials are at fault. Only the tenant backs off.
	TenantFault
	// Backpressure means that the server has no place now. Nobody is at fault. Its dials pause.
	Backpressure
	// TenantFull means that the server has no place for this tenant, but may have places for others. The
	// tenant's dials pause, and its waiters go on waiting.
	TenantFull
	// TenantAway means that none of the tenant's servers is available now. The tenant's dials pause for at
	// most ServerRetry.
	TenantAway
)

// withDefaults returns the configuration with its defaults, or an error if it is not valid.
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

// fillDurations sets the default durations.
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

// reserve returns how many places of a budget are reserved for tenants without a connection.
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
