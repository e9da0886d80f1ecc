package hostdb

import (
	"errors"
	"strings"
)

// The errors of this package, for errors.Is. ErrConflict, ErrImmutable and ErrInvalid come in a *FieldError
// that names the field.
var (
	// ErrNotFound means that there is no such row.
	ErrNotFound = errors.New("hostdb: not found")
	// ErrConflict means that a value that must be unique is taken, that a row is still referred to or refers
	// to no row, that a job's lease is lost, or that a tenant would be left without an active owner (field
	// "last_owner"). If several unique values of a row are taken, the field is the same on both engines: the
	// id, else a user's oauth_id before its email. (PostgreSQL checks them in the order in which their
	// indexes were created, which a restored dump may have changed.)
	ErrConflict = errors.New("hostdb: conflict")
	// ErrImmutable means that audit rows are never changed or deleted.
	ErrImmutable = errors.New("hostdb: immutable")
	// ErrInvalid means that an argument is malformed, too long, out of range or an unknown word.
	ErrInvalid = errors.New("hostdb: invalid")
	// ErrUnavailable means that the database can't answer now: it is unreachable, overloaded, shutting down
	// or closed, or it timed out. It says nothing about the data.
	ErrUnavailable = errors.New("hostdb: unavailable")
)

// FieldError is an error about one field. It wraps one of the package's errors.
type FieldError struct {
	// Field is the column ("email"; of a key with several: "user_id,tenant_id"), the environment variable,
	// or the part of the URL.
	Field string
	// Err is ErrConflict, ErrImmutable, ErrInvalid or ErrUnavailable.
	Err error
	// Reason says what is wrong, or what to do. It never contains the value.
	Reason string
}

// Error implements error.
func (e *FieldError) Error() string {
	return e.Err.Error() + ": " + e.Field + ": " + e.Reason
}

// Unwrap returns Err.
func (e *FieldError) Unwrap() error {
	return e.Err
}

// invalid returns an error about a value refused before it reached the database.
func invalid(field, reason string) error {
	return &FieldError{Field: field, Err: ErrInvalid, Reason: reason}
}

// conflict returns an error about a value that collides with what is stored.
func conflict(field, reason string) error {
	return &FieldError{Field: field, Err: ErrConflict, Reason: reason}
}

// unavailable returns an error about the part of the URL because of which the database can't be used.
func unavailable(field, reason string) error {
	return &FieldError{Field: field, Err: ErrUnavailable, Reason: reason}
}

// failure is an error of the database that concerns no field. It keeps only a text of the driver's error,
// whose values may contain credentials.
type failure struct {
	kind      error // ErrUnavailable, a context's error, or nil
	text      string
	transient bool // the same transaction may succeed if it is retried
}

// Error implements error.
func (f *failure) Error() string {
	if f.kind == nil {
		return "hostdb: " + f.text
	}
	return "hostdb: " + strings.TrimPrefix(f.kind.Error(), "hostdb: ") + ": " + f.text
}

// Unwrap returns ErrUnavailable, a context's error, or nil.
func (f *failure) Unwrap() error {
	return f.kind
}

// retryable reports whether running the transaction again may help.
func retryable(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.transient
}

// constraintField returns the field in a constraint's name: core_users__email__key is about email.
func constraintField(name string) string {
	_, field, found := strings.Cut(name, "__")
	if !found {
		return name
	}
	for _, suffix := range []string{"__key", "__fkey", "__check"} {
		field = strings.TrimSuffix(field, suffix)
	}
	return strings.ReplaceAll(field, "__", ",")
}
