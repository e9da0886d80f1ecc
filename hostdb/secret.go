package hostdb

import (
	"database/sql/driver"
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text that must not be printed, such as a database URL with its password or a password hash.
// fmt, JSON, text encoders and slog show a mask instead. [Secret.Reveal] returns the text.
//
// fmt can't call methods on unexported fields, and doesn't call them for the verbs %p and %w where these
// don't apply (go vet reports such uses). Keep a Secret, and a row or a configuration that contains one, in
// an exported field, or behind two pointers.
type Secret string

const mask = "[secret]"

// Reveal returns the text.
func (s Secret) Reveal() string {
	return string(s)
}

// String returns the mask, or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format implements fmt.Formatter. Every verb writes the mask.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, s.String())
}

// MarshalText implements encoding.TextMarshaler with the mask. JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) {
	return []byte(s.String()), nil
}

// GobEncode implements gob.GobEncoder with the mask.
func (s Secret) GobEncode() ([]byte, error) {
	return s.MarshalText()
}

// LogValue implements slog.LogValuer with the mask.
func (s Secret) LogValue() slog.Value {
	return slog.StringValue(s.String())
}

// Scan implements sql.Scanner. NULL is the empty secret.
func (s *Secret) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s = ""
	case string:
		*s = Secret(v)
	case []byte:
		*s = Secret(v)
	default:
		return fmt.Errorf("hostdb: a secret is text, not %T", src)
	}
	return nil
}

// Value implements driver.Valuer with the text itself. The empty secret is NULL.
func (s Secret) Value() (driver.Value, error) {
	if s == "" {
		return nil, nil
	}
	return string(s), nil
}
