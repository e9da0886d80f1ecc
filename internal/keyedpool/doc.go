// Package keyedpool pools connections to thousands of databases (tenants) on a few servers, under one exact
// budget of connections per server. It knows neither SQL nor HTTP. Connections are of any type C, and
// functions of the Config open and close them. A target T is what it takes to open one. The pool only
// compares targets.
//
// A request takes a lease on its tenant and, from the lease, connections:
//
//	lease, err := pool.Lease("acme", target)   // cheap: a reference count
//	defer lease.Release()
//	conn, err := lease.Acquire(ctx, &owner)       // waits where it must
//	defer conn.Release(keyedpool.Healthy)
//	use(conn.Value())
//
// # What an Acquire does
//
//   - It takes the tenant's own idle connection, if there is one.
//   - Otherwise it dials, if the tenant is below its cap and the budget has room.
//   - Otherwise, if the tenant has no connection at all, it closes another tenant's idle connection: that
//     with the lowest score of frequency and recency. After StealAfter it also does so for a second
//     connection.
//   - Otherwise it waits: first come, first served within the tenant, and tenants without a connection first.
//   - While a tenant without a connection waits, nobody gets a second one. A tenant with several gives one up
//     at each release, and a tenant's only connection serves its own waiters for at most a Turn.
//
// # What is exact
//
// A connection has a place in the budget from before its dial until Config.Close has returned. It serves only
// the tenant and the generation that it was dialed for, and has one holder at a time. It is never closed
// while in use, except by a Close whose context has ended.
//
// # Failure
//
// A dial runs on its own goroutine with its own timeout. A caller who leaves does not end it, and the
// connection goes to the next waiter. A tenant whose dial fails by its own fault backs off exponentially,
// with one probe at the end of each pause. The breaker of a server that fails several times in a row does the
// same for the server, for at most ServerRetry. Open connections keep serving meanwhile.
//
// A full server (Backpressure) is neither at fault nor broken: its dials pause, and waiters go on waiting.
// The pool remembers how many places there were and tries one more at most every ServerRetry. Each success
// doubles the number.
//
// A wait that is too long fails with ErrBusy, or with ErrServerUnavailable if it could only wait for dials.
//
// # Structure
//
// A Pool has shards of tenants with one mutex each, and servers with one mutex each, which guards everything
// about the connections there. The lock order is shard, then server. Neither is held during a call to a
// function of the Config, or during anything else that may block.
package keyedpool
