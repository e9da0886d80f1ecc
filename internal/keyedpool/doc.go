// Package keyedpool pools connections to thousands of databases (tenants) on a few servers under one exact
// budget of connections per server. It knows neither SQL nor HTTP: connections are of any type C, opened and
// closed by functions that the Config brings, and what it takes to open one is a target T, opaque but for
// equality.
//
// A request takes a lease on its tenant and, from the lease, connections:
//
//	lease, err := pool.Lease("acme", target, 0)   // cheap: a reference count
//	defer lease.Release()
//	conn, err := lease.Acquire(ctx, &owner)       // waits where it must
//	defer conn.Release(keyedpool.Healthy)
//	use(conn.Value())
//
// # What an Acquire does
//
// It takes the tenant's own idle connection; else it opens one, if the tenant is below its cap and the budget
// has room; else, if the tenant has no connection at all, the least valuable idle one of another tenant (by
// frequency and recency) is closed and its place taken; else it waits in line: first come, first served
// within the tenant; tenants without any connection before those that want one more. While any tenant without
// a connection waits, nobody gets a second one, a tenant with several gives one up at each release, and a
// tenant's only one serves its own line for a Turn at most, unless another's is idle. After StealAfter a
// tenant may take an idle connection's place for a second one.
//
// # What is exact
//
// A place in the budget is held from before the dial until Config.Close has returned. A connection serves
// only the tenant and the generation it was dialed for; it has one holder at a time; it is never closed in
// its holder's hands, except by a Close whose context has ended.
//
// # Failure
//
// A dial runs on its own goroutine with its own timeout; a caller who leaves does not end it, and the
// connection goes to the next in line. A tenant whose dial fails by its own fault backs off, exponentially,
// with one probe at the end of each pause; a server that fails several times in a row is left alone the same
// way by its breaker, for ServerRetry at most. A full server (Backpressure) is neither: its dials pause, and
// whoever waits goes on waiting. What it has room for is the ceiling; one place above it is tried at most
// every ServerRetry, and each success doubles it. Connections that are open keep serving through all this.
// Who waits too long fails as busy, or with ErrServerUnavailable where all that was waited for were dials.
//
// # Structure
//
// A Pool has shards of tenants, each under a mutex, and servers, each under one mutex that guards everything
// about the connections there. The order is shard, then server; neither is ever held during a call to a
// function of the Config, or during anything else that may block.
package keyedpool
