package tenantdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// errSharedSession: behind a pooler the session is another client's after the transaction.
var errSharedSession = errors.New("tenantdb: a pooler stands before the server, so that what a statement does to its session reaches " +
	"other requests, and perhaps not the next statement: use SET LOCAL, a lock that ends with its transaction, or ON COMMIT DROP in one; " +
	"or, where the pooler has pool_mode=session, set PoolConfig.SessionPooler")

// TraceConnectStart implements pgx.ConnectTracer.
func (g *pgGuard) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	g.config = data.ConnConfig
	return ctx
}

// TraceConnectEnd implements pgx.ConnectTracer.
func (g *pgGuard) TraceConnectEnd(context.Context, pgx.TraceConnectEndData) {}

// noticePooler finds out whether a pooler stands before the server. Each transaction may run in another
// session of the server then: no statement is prepared by name, and none may change the session.
func (c *pooledConn) noticePooler(ctx context.Context, unnamed pgx.QueryExecMode) (err error) {
	g := c.guard
	if g.shared, err = pghosts.Pooled(ctx, c.Conn.Conn().PgConn()); g.shared {
		g.config.DefaultQueryExecMode = unnamed
	}
	return err
}

// admits refuses a statement that would change a shared session.
func (g *pgGuard) admits(text string) error {
	if g.shared && changesSession(text) {
		return errSharedSession
	}
	return nil
}

// nameless reports whether no statement may have a name, by which another client's could be meant.
func (g *pgGuard) nameless() bool {
	return g.shared && g.config.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement
}

// sharedStmt is a statement on a connection whose session is shared: its text, which is sent each time.
type sharedStmt struct {
	on     *borrowedConn
	text   string
	inputs int
}

// Close implements driver.Stmt.
func (s *sharedStmt) Close() error { return nil }

// NumInput implements driver.Stmt.
func (s *sharedStmt) NumInput() int { return s.inputs }

// Exec implements driver.Stmt. Nobody calls it, as there is ExecContext.
func (s *sharedStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

// Query implements driver.Stmt. Nobody calls it, as there is QueryContext.
func (s *sharedStmt) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }

// ExecContext implements driver.StmtExecContext.
func (s *sharedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.on.ExecContext(ctx, s.text, args)
}

// QueryContext implements driver.StmtQueryContext.
func (s *sharedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.on.QueryContext(ctx, s.text, args)
}

// changesSession reports whether the text of one or several statements says that they change their session
// beyond the transaction. What it overlooks, such as a SELECT INTO TEMP, or what a function does, the
// server's word tells of later (see session).
func changesSession(text string) bool {
	for i, statement := range strings.Split(text, ";") {
		words := firstWords(statement)
		switch words[0] {
		case "create":
			if i == 0 && !isTemporary(words) {
				return false // the rest may be a function's body
			}
			if isTemporary(words) {
				return true
			}
		case "do", "call":
			return false // unknown
		case "listen", "load":
			return true
		case "prepare":
			return words[1] != "transaction"
		case "set":
			if words[1] != "local" && words[1] != "transaction" && words[1] != "constraints" {
				return true
			}
		case "declare":
			if strings.Contains(strings.ToLower(statement), "with hold") {
				return true
			}
		}
	}
	return callsSetter([]byte(text))
}

// isTemporary reports whether a statement that begins with these words makes something temporary.
func isTemporary(words [4]string) bool {
	next := words[1]
	if next == "or" { // replace
		next = words[3]
	}
	return next == "temp" || next == "temporary" || next == "local" || next == "global"
}

// firstWords returns the first words of a statement after its comments, in small letters.
func firstWords(statement string) (words [4]string) {
	for n := 0; n < len(words); {
		statement = strings.TrimSpace(statement)
		switch {
		case strings.HasPrefix(statement, "--"):
			_, statement, _ = strings.Cut(statement, "\n")
		case strings.HasPrefix(statement, "/*"):
			_, statement, _ = strings.Cut(statement, "*/")
		default:
			end := strings.IndexFunc(statement, func(c rune) bool { return c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') })
			if end < 0 {
				end = len(statement)
			}
			if end == 0 {
				return words
			}
			words[n], statement = strings.ToLower(statement[:min(end, 16)]), statement[end:]
			n++
		}
	}
	return words
}
