package tenantdb

import (
	"context"
	"time"
)

// Observer is told what a [Middleware] decides and does, for metrics and traces. Every function is optional.
// [JoinObservers] makes one observer of several.
//
// The functions may be called concurrently, and none is called while the library holds a lock. One that
// blocks delays the request that it is told of, and nobody else. A panic is recovered: it changes no decision
// and breaks no request. The first one is logged to [Config.Logger], at level Error.
//
// The functions get the caller's context. Those whose names end in Start return it, or one derived from it,
// which the function for the end then gets. What they are told holds no secret.
type Observer struct {
	// DecisionStart is called before the Middleware decides, and DecisionEnd when it has. Requests of
	// [Config.Skip] aren't decided. The handler doesn't get the context that DecisionStart returns.
	DecisionStart func(context.Context, DecisionStartInfo) context.Context
	// DecisionEnd is called when the Middleware has decided.
	DecisionEnd func(context.Context, DecisionEndInfo)
	// LookupStart is called before a request waits for a lookup in the host database. In a decision its
	// context is derived from the one that DecisionStart returned. [Scope.Check] and [Scope.Refresh] look up
	// too.
	LookupStart func(context.Context, LookupStartInfo) context.Context
	// LookupEnd is called when the wait for a lookup has ended.
	LookupEnd func(context.Context, LookupEndInfo)
	// Refused is called for a request that was let in and is answered with an error all the same, by a guard
	// such as [RequireRole] or by [WriteError]. A request that wasn't let in is a decision's.
	Refused func(context.Context, RefusalInfo)
	// Polled is called after each poll for changes of the host database. If it or Reset blocks, later calls
	// of both are left out, and the Middleware follows the changes all the same.
	Polled func(context.Context, PollInfo)
	// Reset is called when everything cached had to be forgotten, since changes may have been missed.
	Reset func(context.Context, ResetInfo)
}

// Operation is what asks for a decision.
type Operation string

// The operations.
const (
	OperationRequest Operation = "request"  // [Middleware.Handler], [Middleware.HandlerWith]
	OperationSignIn  Operation = "sign_in"  // [Middleware.Authenticated]
	OperationEnter   Operation = "enter"    // [Middleware.Enter]
	OperationEnterAs Operation = "enter_as" // [Middleware.EnterAs]
)

// DecisionStartInfo is about a decision that begins.
type DecisionStartInfo struct {
	Operation Operation
}

// DecisionEndInfo is about a decision.
type DecisionEndInfo struct {
	Operation Operation
	// Code is "" if the request is let in, else the refusal's, as in [Error.Code].
	Code string
	// Reason is more precise than Code.
	Reason Reason
	// Status is the HTTP status of the refusal; 0 if the request is let in.
	Status int
	// Duration is how long the decision took.
	Duration time.Duration
	// Loaded reports whether the request waited for a lookup in the host database. Otherwise what decided was
	// cached, or the request was refused before that mattered.
	Loaded bool
	// TenantID and UserID are ids of the host database; "" if they aren't known. The id of a tenant that
	// doesn't exist is as the request gave it.
	TenantID, UserID string
}

// LookupStartInfo is about a lookup that begins. It has no fields yet.
type LookupStartInfo struct{}

// LookupEndInfo is about a lookup in the host database.
type LookupEndInfo struct {
	// Duration is how long the request waited.
	Duration time.Duration
	// Err is why there is no answer; nil if there is one.
	Err error
}

// RefusalInfo is about a request that was let in and is answered with an error.
type RefusalInfo struct {
	// Code is the refusal's, as in [Error.Code]; "internal" for an error that isn't this package's.
	Code string
	// Reason is more precise than Code.
	Reason Reason
	// Status is the HTTP status.
	Status int
	// TenantID and UserID are ids of the host database; "" if they aren't known.
	TenantID, UserID string
}

// PollInfo is about a poll for changes of the host database.
type PollInfo struct {
	// Lag is how long before the poll's end it began: changes that were committed earlier are known now. It
	// is 0 if the poll failed.
	Lag time.Duration
	// Changes is how many changes the poll found.
	Changes int
	// Err is why the poll failed; nil if it didn't.
	Err error
}

// ResetInfo is about a reset of the cache. It has no fields yet.
type ResetInfo struct{}

// PoolObserver is told what happens to the connections of a [Pool], for metrics and traces. What [Observer]
// says about its functions holds here too. A panic is logged to [slog.Default].
//
// Server is the server's host:port, as in [ServerStats.Server], or "" for SQLite.
type PoolObserver struct {
	// WaitStart is called when a query begins to wait for a connection, with the query's context. A query
	// that finds an idle connection doesn't wait. On SQLite a wait is for the tenant's connection of that
	// kind, or for [PoolConfig.MaxOpenSQLite].
	WaitStart func(context.Context, WaitStartInfo) context.Context
	// WaitEnd is called when the wait has ended.
	WaitEnd func(context.Context, WaitEndInfo)
	// OpenStart is called before a connection is opened. Its context has the values of the one that WaitStart
	// returned for the query that made the pool open it. It isn't cancelled with the query, which may get
	// another connection meanwhile.
	OpenStart func(context.Context, OpenStartInfo) context.Context
	// OpenEnd is called when the connection is open, or has failed to open.
	OpenEnd func(context.Context, OpenEndInfo)
	// Closed is called after a connection was closed.
	Closed func(context.Context, CloseInfo)
	// Evicted is called after something was closed to make room: an idle connection on PostgreSQL, a file
	// with all of its connections on SQLite.
	Evicted func(context.Context, EvictionInfo)
	// BreakerChanged is called after the breaker of a PostgreSQL server has changed. The calls may overtake
	// each other; [ServerStats.Breaker] has the present state.
	BreakerChanged func(context.Context, BreakerInfo)
	// Retired is called when the pool has closed a tenant's database and forgotten it: after [Pool.Retire],
	// [Pool.Drain], [Lease.Close] or a change of its db_url, because nobody used it, or with the pool.
	Retired func(context.Context, RetirementInfo)
}

// WaitStartInfo is about a wait for a connection that begins.
type WaitStartInfo struct {
	TenantID, Server string
}

// WaitEndInfo is about a wait for a connection.
type WaitEndInfo struct {
	TenantID, Server string
	// Duration is how long the wait was.
	Duration time.Duration
	// Code is "" if the query got a connection. Otherwise it is "busy" or "tenant_unavailable", as in
	// [Error.Code], or "canceled" if the query's context was cancelled.
	Code string
	// Err is why there is no connection; nil if there is one.
	Err error
}

// OpenStartInfo is about a connection that is being opened.
type OpenStartInfo struct {
	TenantID, Server string
}

// OpenEndInfo is about a connection that was opened.
type OpenEndInfo struct {
	TenantID, Server string
	// Duration is how long it took.
	Duration time.Duration
	// Err is why it failed; nil if it didn't.
	Err error
}

// CloseInfo is about a connection that was closed.
type CloseInfo struct {
	TenantID, Server string
	// Err is why the server may still count the connection; nil if it doesn't.
	Err error
}

// EvictionInfo is about what was closed to make room.
type EvictionInfo struct {
	// TenantID is the tenant that lost it.
	TenantID, Server string
}

// BreakerInfo is about a change of a server's breaker.
type BreakerInfo struct {
	Server string
	// From and To are states, as in [ServerStats.Breaker].
	From, To string
	// Err is why the server failed; nil if To isn't "open".
	Err error
}

// RetirementInfo is about a tenant's database that was retired and has closed.
type RetirementInfo struct {
	TenantID string
}

// JoinObservers returns an observer that tells each of several. Nil ones are left out.
func JoinObservers(observers ...*Observer) *Observer {
	return &Observer{
		DecisionStart: joinStarts(observers, func(o *Observer) startFunc[DecisionStartInfo] {
			return o.DecisionStart
		}),
		DecisionEnd: joinEnds(observers, func(o *Observer) endFunc[DecisionEndInfo] {
			return o.DecisionEnd
		}),
		LookupStart: joinStarts(observers, func(o *Observer) startFunc[LookupStartInfo] {
			return o.LookupStart
		}),
		LookupEnd: joinEnds(observers, func(o *Observer) endFunc[LookupEndInfo] {
			return o.LookupEnd
		}),
		Refused: joinEnds(observers, func(o *Observer) endFunc[RefusalInfo] {
			return o.Refused
		}),
		Polled: joinEnds(observers, func(o *Observer) endFunc[PollInfo] {
			return o.Polled
		}),
		Reset: joinEnds(observers, func(o *Observer) endFunc[ResetInfo] {
			return o.Reset
		}),
	}
}

// JoinPoolObservers is [JoinObservers] for the observers of a [Pool].
func JoinPoolObservers(observers ...*PoolObserver) *PoolObserver {
	return &PoolObserver{
		WaitStart: joinStarts(observers, func(o *PoolObserver) startFunc[WaitStartInfo] {
			return o.WaitStart
		}),
		WaitEnd: joinEnds(observers, func(o *PoolObserver) endFunc[WaitEndInfo] {
			return o.WaitEnd
		}),
		OpenStart: joinStarts(observers, func(o *PoolObserver) startFunc[OpenStartInfo] {
			return o.OpenStart
		}),
		OpenEnd: joinEnds(observers, func(o *PoolObserver) endFunc[OpenEndInfo] {
			return o.OpenEnd
		}),
		Closed: joinEnds(observers, func(o *PoolObserver) endFunc[CloseInfo] {
			return o.Closed
		}),
		Evicted: joinEnds(observers, func(o *PoolObserver) endFunc[EvictionInfo] {
			return o.Evicted
		}),
		BreakerChanged: joinEnds(observers, func(o *PoolObserver) endFunc[BreakerInfo] {
			return o.BreakerChanged
		}),
		Retired: joinEnds(observers, func(o *PoolObserver) endFunc[RetirementInfo] {
			return o.Retired
		}),
	}
}

// startFunc and endFunc are the functions of observers.
type (
	startFunc[I any] = func(context.Context, I) context.Context
	endFunc[I any]   = func(context.Context, I)
)

// joinStarts returns a function that calls one of each observer, each with the context of the one before. It
// is nil if no observer has one.
func joinStarts[O, I any](observers []*O, of func(*O) startFunc[I]) startFunc[I] {
	var all []startFunc[I]
	for _, o := range observers {
		if o != nil && of(o) != nil {
			all = append(all, of(o))
		}
	}
	if len(all) < 2 {
		return first(all)
	}
	return func(ctx context.Context, info I) context.Context {
		for _, f := range all {
			ctx = f(ctx, info)
		}
		return ctx
	}
}

// joinEnds returns a function that calls one of each observer. It is nil if no observer has one.
func joinEnds[O, I any](observers []*O, of func(*O) endFunc[I]) endFunc[I] {
	var all []endFunc[I]
	for _, o := range observers {
		if o != nil && of(o) != nil {
			all = append(all, of(o))
		}
	}
	if len(all) < 2 {
		return first(all)
	}
	return func(ctx context.Context, info I) {
		for _, f := range all {
			f(ctx, info)
		}
	}
}

// first returns the first of a list, or the zero value.
func first[T any](list []T) (value T) {
	if len(list) > 0 {
		value = list[0]
	}
	return value
}
