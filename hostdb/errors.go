package hostdb

import (
	"errors"
	"strings"
)

// What went wrong, for errors.Is. A *FieldError around ErrConflict, ErrImmutable or ErrInvalid names the
// field.
var (
	// ErrNotFound: there is no such row.
	ErrNotFound = errors.New("hostdb: not found")
	// ErrConflict: a value that must be unique is taken, a row is still referred to or refers to nothing, a
	// job's lease is lost, or a tenant would be without an active owner (field "last_owner"). Where several
	// unique values of a row are taken, the field is one of them, on both engines the same: the id, else a
	// user's oauth_id before its email. (PostgreSQL checks them in the order in which their indexes were
	// made, which a restored dump may have changed.)
	ErrConflict = errors.New("hostdb: conflict")
	// ErrImmutable: audit rows are never changed or deleted.
	ErrImmutable = errors.New("hostdb: immutable")
	// ErrInvalid: an argument is malformed, too long, out of range or an unknown word.
	ErrInvalid = errors.New("hostdb: invalid")
	// ErrUnavailable: the database can't answer now (unreachable, timed out, overloaded, shutting down,
	// closed). It says nothing about what was asked.
	ErrUnavailable = errors.New("hostdb: unavailable")
)

// FieldError is an error about one field. It wraps one of the package's error values.
type FieldError struct {
	// Field is the column ("email"; several of one constraint: "user_id,tenant_id"), the environment
	// variable, or the part of the URL at fault.
	Field string
	// Err is ErrConflict, ErrImmutable, ErrInvalid or ErrUnavailable.
	Err error
	// Reason says what is wrong, or how to mend it, in words. It never holds the value.
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

// invalid says that a field's value was refused before it reached the database.
func invalid(field, reason string) error {
	return &FieldError{Field: field, Err: ErrInvalid, Reason: reason}
}

// conflict says that a field's value collides with what is stored.
func conflict(field, reason string) error {
	return &FieldError{Field: field, Err: ErrConflict, Reason: reason}
}

// unavailable says which part of the URL a database can't be reached by.
func unavailable(field, reason string) error {
	return &FieldError{Field: field, Err: ErrUnavailable, Reason: reason}
}

// failure is an error of the database that is about no field. The driver's error is kept as text only: its
// values may hold credentials.
type failure struct {
	kind      error // ErrUnavailable, a context's error, or nil
	text      string
	transient bool // the same transaction may succeed if it is run again
}

// Error implements error.
func (f *failure) Error() string {
	if f.kind == nil {
		return "hostdb: " + f.text
	}
	return "hostdb: " + strings.TrimPrefix(f.kind.Error(), "hostdb: ") + ": " + f.text
}

// Unwrap returns the error values that describe the failure.
func (f *failure) Unwrap() error {
	return f.kind
}

// retryable reports whether err says that running the transaction again may help.
func retryable(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.transient
}

// constraintField reads the field out of a constraint's name: core_users__email__key is about email.
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
