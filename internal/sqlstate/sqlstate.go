// Package sqlstate names the PostgreSQL error codes that the library acts on (PostgreSQL documentation,
// appendix A).
package sqlstate

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// The codes. Their names are PostgreSQL's condition names.
const (
	ProtocolViolation            = "08P01"
	FeatureNotSupported          = "0A000"
	NotNullViolation             = "23502"
	ForeignKeyViolation          = "23503"
	UniqueViolation              = "23505"
	CheckViolation               = "23514"
	ReadOnlyTransaction          = "25006"
	InFailedTransaction          = "25P02"
	InvalidStatementName         = "26000"
	InvalidAuthorization         = "28000"
	InvalidPassword              = "28P01"
	InvalidCatalogName           = "3D000" // no such database
	SerializationFailure         = "40001"
	DeadlockDetected             = "40P01"
	InsufficientPrivilege        = "42501"
	DuplicateObject              = "42710" // such as a role
	UndefinedFunction            = "42883"
	DuplicateDatabase            = "42P04"
	DuplicatePreparedStatement   = "42P05"
	TooManyConnections           = "53300"
	ObjectNotInPrerequisiteState = "55000"
	LockNotAvailable             = "55P03"
	QueryCanceled                = "57014"
	CannotConnectNow             = "57P03"
	DatabaseDropped              = "57P04"
	UndefinedFile                = "58P01"
	InternalError                = "XX000"
)

// Of returns the code of the PostgreSQL error that err wraps, or "".
func Of(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}
