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
//
// The product's own tracer comes first: it has the caller's context, and the guard judges that one too. What
// the tracer returns is the context that goes on, or that is done.
type guard struct {
	checkout *checkout.Checkout // the last one; nil: the connection is being opened
	session  *session
	config   *pgx.ConnConfig // the connection's own
	shared   bool            // other clients may run their transactions in the session
	limit    time.Duration   // of a statement; 0: none
	quiet    bool            // the product's tracer isn't told

	// The product's tracer; nil: there is none, or it doesn't trace these.
	query    pgx.QueryTracer
	batch    pgx.BatchTracer
	copyFrom pgx.CopyFromTracer
	prepare  pgx.PrepareTracer
	connect  pgx.ConnectTracer
}

// trace has the product's tracer told of what happens on the connection.
func (g *guard) trace(t pgx.QueryTracer) {
	g.query = t
	g.batch, _ = t.(pgx.BatchTracer)
	g.copyFrom, _ = t.(pgx.CopyFromTracer)
	g.prepare, _ = t.(pgx.PrepareTracer)
	g.connect, _ = t.(pgx.ConnectTracer)
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

// goOn returns the context that a statement goes on with. err is why it may not run, or nil. A limit of 0 is
// none.
func goOn(ctx context.Context, err error, limit time.Duration) context.Context {
	if err != nil {
		return checkout.Ended(ctx, err)
	}
	return checkout.WithLimit(ctx, limit)
}

// TraceConnectStart implements pgx.ConnectTracer.
func (g *guard) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	g.config = data.ConnConfig
	if g.connect != nil {
		ctx = g.connect.TraceConnectStart(ctx, data)
	}
	return ctx
}

// TraceConnectEnd implements pgx.ConnectTracer.
func (g *guard) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	if g.connect != nil {
		g.connect.TraceConnectEnd(ctx, data)
	}
}

// TraceQueryStart implements pgx.QueryTracer.
func (g *guard) TraceQueryStart(
	ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData,
) context.Context {
	g.session.progress.begin()
	err := g.check(ctx, data.SQL)
	if g.query != nil && !g.quiet {
		ctx = g.query.TraceQueryStart(ctx, conn, data)
	}
	return goOn(ctx, err, g.limit)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (g *guard) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if g.query != nil && !g.quiet {
		g.query.TraceQueryEnd(ctx, conn, data)
	}
	checkout.EndLimit(ctx)
}

// TraceBatchStart implements pgx.BatchTracer.
func (g *guard) TraceBatchStart(
	ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData,
) context.Context {
	g.session.progress.begin()
	err := g.check(ctx, "")
	for _, query := range data.Batch.QueuedQueries {
		if err == nil {
			err = g.checkText(query.SQL)
		}
	}
	if g.batch != nil {
		ctx = g.batch.TraceBatchStart(ctx, conn, data)
	}
	return goOn(ctx, err, g.limit)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (g *guard) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	if g.batch != nil {
		g.batch.TraceBatchQuery(ctx, conn, data)
	}
}

// TraceBatchEnd implements pgx.BatchTracer.
func (g *guard) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	if g.batch != nil {
		g.batch.TraceBatchEnd(ctx, conn, data)
	}
	checkout.EndLimit(ctx)
}

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (g *guard) TraceCopyFromStart(
	ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData,
) context.Context {
	err := g.check(ctx, "")
	if err == nil {
		g.forgetColumns(ctx, conn, data.TableName, data.ColumnNames)
	}
	if g.copyFrom != nil {
		ctx = g.copyFrom.TraceCopyFromStart(ctx, conn, data)
	}
	return goOn(ctx, err, 0)
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (g *guard) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromEndData) {
	if g.copyFrom != nil {
		g.copyFrom.TraceCopyFromEnd(ctx, conn, data)
	}
}

// TracePrepareStart implements pgx.PrepareTracer.
func (g *guard) TracePrepareStart(
	ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareStartData,
) context.Context {
	err := g.check(ctx, data.SQL)
	if data.Name != "" && g.forbidsNames() {
		err = errSharedSession
	}
	if g.prepare != nil {
		ctx = g.prepare.TracePrepareStart(ctx, conn, data)
	}
	return goOn(ctx, err, 0)
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (g *guard) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareEndData) {
	if g.prepare != nil {
		g.prepare.TracePrepareEnd(ctx, conn, data)
	}
}
