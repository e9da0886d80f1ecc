package stripehook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// The reasons why a signature is refused. The texts repeat nothing of the request.
var (
	errHeader   = errors.New("the Stripe-Signature header is missing or malformed")
	errTime     = errors.New("the signature's time is too far from now")
	errMismatch = errors.New("no signature matches")
)

const (
	maxHeader     = 4 << 10
	maxSignatures = 16
)

// signature is the Stripe-Signature header (docs.stripe.com/webhooks#verify-manually).
type signature struct {
	stamp string // the time as it was signed: digits
	at    time.Time
	macs  [][]byte // of scheme v1
}

// parseSignature reads "t=1492774577,v1=5257a8…,v1=…,v0=…": one t, at least one v1. Other schemes are
// ignored, as is a v1 that can't be a SHA-256.
func parseSignature(header string) (signature, error) {
	var s signature
	if len(header) > maxHeader {
		return s, errHeader
	}
	for entry := range strings.SplitSeq(header, ",") {
		scheme, value, ok := strings.Cut(entry, "=")
		if !ok || strings.Contains(value, "=") {
			return s, errHeader
		}
		switch scheme {
		case "t":
			seconds, ok := parseStamp(value)
			if !ok || s.stamp != "" {
				return s, errHeader
			}
			s.stamp, s.at = value, time.Unix(seconds, 0)
		case "v1":
			if len(s.macs) == maxSignatures {
				return s, errHeader
			}
			if mac, err := hex.DecodeString(value); err == nil && len(mac) == sha256.Size {
				s.macs = append(s.macs, mac)
			}
		}
	}
	if s.stamp == "" || len(s.macs) == 0 {
		return s, errHeader
	}
	return s, nil
}

// parseStamp reads seconds since 1970: digits without a leading zero.
func parseStamp(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 12 || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// check compares the signature's MACs with those of the body under each secret. It compares every pair, each
// in constant time.
func (s signature) check(secrets []string, body []byte) error {
	matches := false
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(s.stamp + "."))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, got := range s.macs {
			if hmac.Equal(got, want) {
				matches = true
			}
		}
	}
	if !matches {
		return errMismatch
	}
	return nil
}

// checkTime refuses a signature that is too old, and may be a replay, or from the future.
func (s signature) checkTime(now time.Time, tolerance time.Duration) error {
	if s.at.Before(now.Add(-tolerance)) || s.at.After(now.Add(tolerance)) {
		return errTime
	}
	return nil
}
