package hostdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	sqlitedriver "modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"
)

// engine is the kind of database behind a DB. The SQL is the same for both; what differs is here and in the
// migrations.
type engine string

const (
	postgres engine = "postgres"
	sqlite   engine = "sqlite"
)

// time returns t as a parameter of a statement.
func (e engine) time(t time.Time) any {
	if e == postgres {
		return canonical(t)
	}
	return formatTime(t)
}

// forUpdate is the clause that locks selected rows. In SQLite a transaction holds the one write lock from its
// start.
func (e engine) forUpdate() string {
	if e == postgres {
		return " FOR UPDATE"
	}
	return ""
}

// translate turns a driver's error into one of ours. about names the field that a conflict in SQLite is
// about. Where ctx has ended, that is the error; what the database answered all the same stays beside it.
func translate(ctx context.Context, err error, about conflictField) error {
	if err == nil {
		return nil
	}
	over := contextError(ctx)
	if over == nil && errors.Is(err, context.DeadlineExceeded) {
		over = timeoutError()
	}
	answer, definite := translateAnswer(err, about)
	switch {
	case answer == nil && over == nil:
		return translateConnection(err)
	case over == nil:
		return answer
	case !definite:
		return over
	// it has been through here
	case errors.Is(answer, context.Canceled), errors.Is(answer, context.DeadlineExceeded):
		return answer
	}
	return errors.Join(over, answer)
}

// contextError is the error of a context that has ended.
func contextError(ctx context.Context) error {
	switch {
	case ctx.Err() == nil:
		return nil
	case errors.Is(context.Cause(ctx), context.Canceled):
		return &failure{kind: context.Canceled, text: "the caller went away"}
	}
	return timeoutError()
}

func timeoutError() error {
	return &failure{kind: errors.Join(ErrUnavailable, context.DeadlineExceeded), text: "timed out"}
}

// translateAnswer translates what is ours already and what a database sent; nil for anything else. It reports
// whether that is more than the end of a context.
func translateAnswer(err error, about conflictField) (error, bool) {
	var own *failure
	var field *FieldError
	if errors.As(err, &own) || errors.As(err, &field) || errors.Is(err, ErrNotFound) {
		return err, true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return translatePostgres(pg), pg.Code != "57014" // cancelled
	}
	var lite *sqlitedriver.Error
	if errors.As(err, &lite) {
		code := lite.Code() & 0xff
		return translateSQLite(lite, about), code != sqlitecode.SQLITE_INTERRUPT &&
			code != sqlitecode.SQLITE_ABORT
	}
	return nil, false
}

// translateConnection judges errors that no database sent.
func translateConnection(err error) error {
	var network net.Error
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, driver.ErrBadConn),
		errors.Is(err, sql.ErrConnDone), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), pgconn.SafeToRetry(err):
		return &failure{kind: ErrUnavailable, text: "the connection failed"}
	case errors.Is(err, sql.ErrTxDone):
		return &failure{text: "the transaction has ended"}
	case errors.Is(err, context.Canceled):
		return &failure{kind: ErrUnavailable, text: "the connection was closed"}
	}
	return &failure{kind: ErrUnavailable, text: "the driver failed: " + kindOf(err)}
}

// kindOf names an unknown error by its innermost type: its text may hold values.
func kindOf(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return fmt.Sprintf("%T", err)
		}
		err = inner
	}
}

// translatePostgres maps SQLSTATEs (PostgreSQL documentation, appendix A, and the HD class of our
// migrations).
func translatePostgres(err *pgconn.PgError) error {
	switch err.Code {
	case "HD001":
		return &FieldError{Field: err.TableName, Err: ErrImmutable, Reason: "rows are never changed"}
	case "HD002":
		return lastOwner()
	case "23505":
		return conflict(constraintField(err.ConstraintName), "is taken")
	case "23503":
		return conflict(constraintField(err.ConstraintName), badReference)
	case "23502":
		return invalid(err.ColumnName, "is missing")
	case "23514":
		return invalid(constraintField(err.ConstraintName), "is not allowed")
	case "40001", "40P01":
		return &failure{kind: ErrUnavailable, text: "collided with another transaction", transient: true}
	case "25P02":
		return &failure{text: "the transaction has failed; roll it back"}
	}
	if strings.HasPrefix(err.Code, "22") { // data exception
		return invalid("value", "is out of range or malformed ("+sqlState(err)+")")
	}
	return &failure{kind: ErrUnavailable, text: sqlState(err)} // such as a schema that is gone
}

// sqlState names an error without the server's own words, which may repeat values.
func sqlState(err *pgconn.PgError) string {
	return "the server answered SQLSTATE " + err.Code
}

// translateSQLite maps result codes (sqlite.org/rescode.html) and the messages of our triggers.
func translateSQLite(err *sqlitedriver.Error, about conflictField) error {
	detail := err.Error()
	if i := strings.LastIndex(detail, "constraint failed: "); i >= 0 {
		detail = detail[i+len("constraint failed: "):]
	}
	detail, _, _ = strings.Cut(detail, " (")
	switch err.Code() {
	case sqlitecode.SQLITE_CONSTRAINT_UNIQUE, sqlitecode.SQLITE_CONSTRAINT_PRIMARYKEY:
		return conflict(about(sqliteFields(detail)), "is taken")
	case sqlitecode.SQLITE_CONSTRAINT_FOREIGNKEY:
		return conflict(about(""), badReference)
	case sqlitecode.SQLITE_CONSTRAINT_NOTNULL:
		return invalid(sqliteFields(detail), "is missing")
	case sqlitecode.SQLITE_CONSTRAINT_CHECK:
		return invalid(constraintField(detail), "is not allowed")
	// cannot store TEXT value in INTEGER column core_tenants.is_active
	case sqlitecode.SQLITE_CONSTRAINT_DATATYPE:
		return invalid(sqliteFields(detail[strings.LastIndexByte(detail, ' ')+1:]), "has another type")
	case sqlitecode.SQLITE_CONSTRAINT_TRIGGER:
		return translateTrigger(err.Error())
	}
	switch err.Code() & 0xff {
	case sqlitecode.SQLITE_BUSY, sqlitecode.SQLITE_LOCKED:
		return &failure{kind: ErrUnavailable, text: "the file is busy", transient: true}
	case sqlitecode.SQLITE_IOERR, sqlitecode.SQLITE_FULL, sqlitecode.SQLITE_CANTOPEN,
		sqlitecode.SQLITE_READONLY, sqlitecode.SQLITE_CORRUPT, sqlitecode.SQLITE_NOTADB,
		sqlitecode.SQLITE_NOMEM, sqlitecode.SQLITE_PERM, sqlitecode.SQLITE_INTERRUPT,
		sqlitecode.SQLITE_PROTOCOL:
		return &failure{kind: ErrUnavailable, text: sqlitedriver.ErrorCodeString[err.Code()&0xff]}
	}
	return &failure{kind: ErrUnavailable,
		text: fmt.Sprintf("SQLite answered %d, %s", err.Code(),
			sqlitedriver.ErrorCodeString[err.Code()&0xff])}
}

// translateTrigger reads what our triggers raise: hostdb:conflict:last_owner.
func translateTrigger(message string) error {
	_, rest, _ := strings.Cut(message, "hostdb:")
	kind, field, _ := strings.Cut(rest, ":")
	field, _, _ = strings.Cut(field, " ")
	switch {
	case field == "last_owner":
		return lastOwner()
	case kind == "immutable":
		return &FieldError{Field: field, Err: ErrImmutable, Reason: "rows are never changed"}
	case kind == "conflict":
		return conflict(field, "is taken")
	}
	return &failure{text: "a trigger refuses it"}
}

// sqliteFields reads "core_memberships.user_id, core_memberships.tenant_id" or "index 'core_users__email'".
func sqliteFields(detail string) string {
	if index, found := strings.CutPrefix(detail, "index '"); found {
		return constraintField(strings.TrimSuffix(index, "'"))
	}
	columns := strings.Split(detail, ", ")
	for i, column := range columns {
		_, columns[i], _ = strings.Cut(column, ".")
	}
	return strings.Join(columns, ",")
}

// badReference is what the engines say of a foreign key; whoever ran the statement knows which of the two it
// is ([because]).
const badReference = "refers to no row, or is still referred to"

// withReason gives a conflict of a foreign key its reason; other errors are left alone.
func withReason(err error, reason string) error {
	var field *FieldError
	if errors.As(err, &field) && field.Reason == badReference {
		field.Reason = reason
	}
	return err
}

func lastOwner() error {
	return conflict("last_owner", "the tenant would be without an active owner; promote one first")
}
