package pgdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// errSharedSession refuses a statement that changes its session: behind a pooler, that is another client's
// after the transaction.
var errSharedSession = &refusal.Misuse{Reason: errors.New("a pooler stands before the server, so that what " +
	"a statement does to its session reaches other requests, and perhaps not the next statement: use SET " +
	"LOCAL, or a lock that ends with its transaction; or, where the pooler has " +
	"pool_mode=session, set PoolConfig.SessionPooler")}

// detectPooler finds out whether a pooler stands before the server. Each transaction may run in another
// session of the server then: no statement is prepared by name, and none may change the session.
func (c *pooledConn) detectPooler(ctx context.Context, unnamed pgx.QueryExecMode) (err error) {
	if c.guard.shared, err = pghosts.Pooled(ctx, c.pg()); c.guard.shared {
		c.guard.config.DefaultQueryExecMode = unnamed
	}
	return err
}

// unnamedStmt is a statement of database/sql on a connection whose session is shared. Its text is sent each
// time.
type unnamedStmt struct {
	conn   *sqlConn
	text   string
	inputs int
}

// Close implements driver.Stmt.
func (s *unnamedStmt) Close() error { return nil }

// NumInput implements driver.Stmt.
func (s *unnamedStmt) NumInput() int { return s.inputs }

// Exec implements driver.Stmt. Nobody calls it, as there is ExecContext.
func (s *unnamedStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

// Query implements driver.Stmt. Nobody calls it, as there is QueryContext.
func (s *unnamedStmt) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }

// ExecContext implements driver.StmtExecContext.
func (s *unnamedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.text, args)
}

// QueryContext implements driver.StmtQueryContext.
func (s *unnamedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.text, args)
}

// changesSession reports whether the text of one or several statements says that they change their session
// beyond the transaction. It overlooks some, such as a SELECT INTO TEMP, and what functions do. Of those the
// session learns from the server.
func changesSession(text string) bool {
	for i, statement := range strings.Split(text, ";") {
		words := firstWords(statement)
		switch words[0] {
		case "create":
			if isTemporary(words) {
				return true
			}
			if i == 0 {
				return false // the rest may be a function's body
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

// firstWords returns the first words of a statement after its comments, in lower case.
func firstWords(statement string) (words [4]string) {
	for n := 0; n < len(words); {
		statement = strings.TrimSpace(statement)
		switch {
		case strings.HasPrefix(statement, "--"):
			_, statement, _ = strings.Cut(statement, "\n")
		case strings.HasPrefix(statement, "/*"):
			_, statement, _ = strings.Cut(statement, "*/")
		default:
			end := strings.IndexFunc(statement, endsWord)
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

// endsWord reports whether a character is no part of a keyword.
func endsWord(c rune) bool { return c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') }
