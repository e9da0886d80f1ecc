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

	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// engine is the kind of database behind a DB. Both run the same SQL. What differs is here and in the
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

// forUpdate returns the clause that locks selected rows. A SQLite transaction holds the only write lock from
// its start.
func (e engine) forUpdate() string {
	if e == postgres {
		return " FOR UPDATE"
	}
	return ""
}

// translate converts a driver's error into one of this package. If ctx has ended, that is the error, joined
// with what the database answered nevertheless.
func translate(ctx context.Context, err error, field conflictField) error {
	if err == nil {
		return nil
	}
	over := contextError(ctx)
	if over == nil && errors.Is(err, context.DeadlineExceeded) {
		over = timeoutError()
	}
	answer, definite := translateAnswer(err, field)
	switch {
	case answer == nil && over == nil:
		return translateConnection(err)
	case over == nil:
		return answer
	case !definite:
		return over
	// The error has been translated before.
	case errors.Is(answer, context.Canceled), errors.Is(answer, context.DeadlineExceeded):
		return answer
	}
	return errors.Join(over, answer)
}

// contextError returns the error for a context that has ended, or nil.
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

// translateAnswer translates an error that is this package's already or that a database sent; for others it
// returns nil. The bool reports whether the answer says more than that the context ended.
func translateAnswer(err error, field conflictField) (error, bool) {
	var own *failure
	var about *FieldError
	if errors.As(err, &own) || errors.As(err, &about) || errors.Is(err, ErrNotFound) {
		return err, true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return translatePostgres(pg), pg.Code != sqlstate.QueryCanceled // cancelled
	}
	var lite *sqlitedriver.Error
	if errors.As(err, &lite) {
		code := lite.Code() & 0xff
		return translateSQLite(lite, field), code != sqlitecode.SQLITE_INTERRUPT &&
			code != sqlitecode.SQLITE_ABORT
	}
	return nil, false
}

// translateConnection translates errors that no database sent.
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

// kindOf names an unknown error by its innermost type, because its text may contain values.
func kindOf(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return fmt.Sprintf("%T", err)
		}
		err = inner
	}
}

// translatePostgres maps SQLSTATEs (PostgreSQL documentation, appendix A, and class HD of our migrations).
func translatePostgres(err *pgconn.PgError) error {
	switch err.Code {
	case "HD001":
		return &FieldError{Field: err.TableName, Err: ErrImmutable, Reason: "rows are never changed"}
	case "HD002":
		return lastOwner()
	case sqlstate.UniqueViolation:
		return conflict(constraintField(err.ConstraintName), "is taken")
	case sqlstate.ForeignKeyViolation:
		return conflict(constraintField(err.ConstraintName), badReference)
	case sqlstate.NotNullViolation:
		return invalid(err.ColumnName, "is missing")
	case sqlstate.CheckViolation:
		return invalid(constraintField(err.ConstraintName), "is not allowed")
	case sqlstate.SerializationFailure, sqlstate.DeadlockDetected:
		return &failure{kind: ErrUnavailable, text: "collided with another transaction", transient: true}
	case sqlstate.InFailedTransaction:
		return &failure{text: "the transaction has failed; roll it back"}
	}
	if strings.HasPrefix(err.Code, "22") { // data exception
		return invalid("value", "is out of range or malformed ("+sqlState(err)+")")
	}
	return &failure{kind: ErrUnavailable, text: sqlState(err)} // such as a missing schema
}

// sqlState describes an error without the server's message, which may repeat values.
func sqlState(err *pgconn.PgError) string {
	return "the server answered SQLSTATE " + err.Code
}

// translateSQLite maps result codes (sqlite.org/rescode.html) and the messages of our triggers.
func translateSQLite(err *sqlitedriver.Error, field conflictField) error {
	detail := err.Error()
	if i := strings.LastIndex(detail, "constraint failed: "); i >= 0 {
		detail = detail[i+len("constraint failed: "):]
	}
	detail, _, _ = strings.Cut(detail, " (")
	switch err.Code() {
	case sqlitecode.SQLITE_CONSTRAINT_UNIQUE, sqlitecode.SQLITE_CONSTRAINT_PRIMARYKEY:
		return conflict(field(sqliteFields(detail)), "is taken")
	case sqlitecode.SQLITE_CONSTRAINT_FOREIGNKEY:
		return conflict(field(""), badReference)
	case sqlitecode.SQLITE_CONSTRAINT_NOTNULL:
		return invalid(sqliteFields(detail), "is missing")
	case sqlitecode.SQLITE_CONSTRAINT_CHECK:
		return invalid(constraintField(detail), "is not allowed")
	// As in "cannot store TEXT value in INTEGER column core_tenants.is_active".
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

// translateTrigger parses the message that a trigger of ours raises, such as hostdb:conflict:last_owner.
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
	return &failure{text: "a trigger refused the statement"}
}

// sqliteFields parses "core_memberships.user_id, core_memberships.tenant_id" or "index 'core_users__email'".
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

// badReference is the reason of a foreign key's conflict. The engines don't tell which of the two it is.
// Callers that know replace it by withReason.
const badReference = "refers to no row, or is still referred to"

// withReason replaces the reason of a foreign key's conflict. It leaves other errors alone.
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
