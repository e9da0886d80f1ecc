package pgdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/checkout"
)

// guard refuses the contexts of other tenants' scopes on a connection that is checked out, whichever way they
// reach it: a transaction, a savepoint, a batch, pgx's own connection. It bounds the time of a statement.
// Where a pooler stands before the server, it refuses statements that would change a session which other
// clients share.
//
// It is pgx's tracer: a statement goes on with the context that the tracer returns. A refused one goes on
// with a context that is done, by whose error pgx gives up before it sends anything.
type guard struct {
	checkout *checkout.Checkout // the last one; nil: the connection is being opened
	session  *session
	config   *pgx.ConnConfig // the connection's own
	shared   bool            // other clients may run their transactions in the session
	limit    time.Duration   // of a statement; 0: none
}

// check returns why a statement may not run with a context, or nil.
func (g *guard) check(ctx context.Context, text string) error {
	if g.checkout != nil {
		if err := g.checkout.Check(ctx); err != nil {
			return err
		}
	}
	return g.checkText(text)
}

// checkText refuses a statement that would change a shared session.
func (g *guard) checkText(text string) error {
	if g.shared && changesSession(text) {
		return errSharedSession
	}
	return nil
}

// forbidsNames reports whether no statement may have a name, since it could be another client's.
func (g *guard) forbidsNames() bool {
	return g.shared && g.config.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement
}

// contextFor returns the context that a statement goes on with.
func (g *guard) contextFor(ctx context.Context, text string) context.Context {
	if err := g.check(ctx, text); err != nil {
		return checkout.Ended(ctx, err)
	}
	return ctx
}

// TraceConnectStart implements pgx.ConnectTracer.
func (g *guard) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	g.config = data.ConnConfig
	return ctx
}

// TraceConnectEnd implements pgx.ConnectTracer.
func (g *guard) TraceConnectEnd(context.Context, pgx.TraceConnectEndData) {}

// TraceQueryStart implements pgx.QueryTracer.
func (g *guard) TraceQueryStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData,
) context.Context {
	g.session.progress.begin()
	return checkout.WithLimit(g.contextFor(ctx, data.SQL), g.limit)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (g *guard) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	checkout.EndLimit(ctx)
}

// TraceBatchStart implements pgx.BatchTracer.
func (g *guard) TraceBatchStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData,
) context.Context {
	g.session.progress.begin()
	for _, query := range data.Batch.QueuedQueries {
		if err := g.checkText(query.SQL); err != nil {
			return checkout.Ended(ctx, err)
		}
	}
	return checkout.WithLimit(g.contextFor(ctx, ""), g.limit)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (g *guard) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (g *guard) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	checkout.EndLimit(ctx)
}

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (g *guard) TraceCopyFromStart(
	ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData,
) context.Context {
	ctx = g.contextFor(ctx, "")
	forgetColumns(ctx, conn, data.TableName, data.ColumnNames)
	return ctx
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (g *guard) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}

// TracePrepareStart implements pgx.PrepareTracer.
func (g *guard) TracePrepareStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TracePrepareStartData,
) context.Context {
	if data.Name != "" && g.forbidsNames() {
		return checkout.Ended(ctx, errSharedSession)
	}
	return g.contextFor(ctx, data.SQL)
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (g *guard) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}
