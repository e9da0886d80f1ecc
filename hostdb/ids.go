package hostdb

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// NewID returns a new id: a UUID of version 7 (RFC 9562) as 32 lower-case hexadecimal digits. Ids sort by
// the time at which they were created.
func NewID() string {
	id := uuid.Must(uuid.NewV7())
	return hex.EncodeToString(id[:])
}

// firstID returns the lower bound of the ids that NewID creates from t on (RFC 9562, section 5.7).
func firstID(t time.Time) string {
	return fmt.Sprintf("%012x%020d", max(0, t.UnixMilli()), 0)
}

// Timestamp returns the current time in UTC as ISO 8601 with microseconds: "2026-01-31T12:00:00.000000Z".
func Timestamp() string {
	return formatTime(time.Now())
}

// ValidID reports whether s is an id: 32 lower-case hexadecimal digits.
func ValidID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ValidSlug reports whether s can name a tenant: 1 to 63 of a-z, 0-9 and "-", without "-" at either end, and
// not 32 hexadecimal digits, which would be an id.
func ValidSlug(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' || ValidID(s) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' {
			return false
		}
	}
	return true
}

// timeLayout has a fixed width, so that SQLite sorts the texts as times.
const timeLayout = "2006-01-02T15:04:05.000000Z"

func formatTime(t time.Time) string {
	return t.UTC().Format(timeLayout)
}

// canonical rounds t as both engines store it.
func canonical(t time.Time) time.Time {
	return t.UTC().Truncate(time.Microsecond)
}
