package stripehook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Config describes an endpoint. Secrets are needed; the zero value of everything else is safe.
type Config struct {
	// Secrets are the endpoint's signing secrets as Stripe shows them ("whsec_…"): one, or several while they
	// are rotated. What any of them signs is accepted, so never give one that another program knows. At most
	// 8.
	Secrets []string
	// Tolerance is how far the time of a signature may be from now, in either direction. Default 5 min, as
	// Stripe's own libraries.
	Tolerance time.Duration
	// Mode says which events are taken: Live or Test. Default: those that the secrets sign. Stripe gives the
	// endpoints of both modes secrets of their own; set it where Secrets could ever hold one of each. Events
	// of the other mode are answered 200 and change nothing.
	Mode Mode
	// Account is the connected account (Stripe Connect, "acct_…") whose events are taken. Default: the events
	// of the account that owns the endpoint, and of no connected one. Other accounts' events are answered 200
	// and change nothing.
	Account string
	// Fetcher, where set, is asked for a subscription instead of taking it from the event: by events about it
	// that aren't older than the second that its row has reached, and by all invoices and sessions.
	Fetcher Fetcher
	// Accept, where set, chooses the events that are for this program, where other products share the Stripe
	// account. Those that it refuses are answered 200, and neither stored nor parked. It is called before
	// anything is written, must not wait, and may be called again for the same event. An event is accepted if
	// Accept panics. Default: all.
	Accept func(Event) bool
	// DenyPaused takes a subscription whose pause_collection is set for paused, so that it admits nobody
	// until Stripe says that payments are collected again. Default: Stripe's own status counts, which stays
	// active meanwhile, since the service may be given away for that time
	// (docs.stripe.com/billing/subscriptions/pause-payment).
	DenyPaused bool
	// ParkedFor is how long an event waits for the subscription or the tenant that it is about. After that it
	// is recorded as failed, with the reason. Default 30 days.
	ParkedFor time.Duration
	// Logger receives what happens to events (level Info; Warn where one is parked or fails) and refused
	// requests (level Debug): events' ids and types, nothing else of a payload. Default: none.
	Logger *slog.Logger
	// Now is the clock that signatures are judged by. Default: time.Now.
	Now func() time.Time
}

// Mode is one of Stripe's two worlds.
type Mode string

// The modes.
const (
	Live Mode = "live"
	Test Mode = "test"
)

// Fetcher asks Stripe for a subscription, as one call of its client does. It is called while the
// subscription's row is locked, so that what is fetched last is what stays. On SQLite all other writers of
// the host database wait meanwhile.
type Fetcher interface {
	// Subscription returns the subscription object as JSON (GET /v1/subscriptions/{id}), at most 1 MiB. An
	// error has Stripe deliver the event again. ctx ends after 10 s.
	Subscription(ctx context.Context, id string) ([]byte, error)
}

const (
	defaultTolerance = 5 * time.Minute
	maxSecrets       = 8
)

// validate names what is missing and how to mend it.
func (c *Config) validate() error {
	if len(c.Secrets) == 0 || len(c.Secrets) > maxSecrets {
		return fmt.Errorf("Secrets: give the endpoint's signing secret, and at most %d", maxSecrets)
	}
	for _, secret := range c.Secrets {
		switch {
		case secret == "":
			return errors.New("Secrets: one is empty, and anybody could sign with it")
		case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
			return errors.New("Secrets: one holds a space, a line's end or another character that no secret has")
		}
	}
	switch {
	case c.Tolerance < 0:
		return errors.New("Tolerance: can't be negative")
	case c.ParkedFor < 0:
		return errors.New("ParkedFor: can't be negative")
	case c.Mode != "" && c.Mode != Live && c.Mode != Test:
		return errors.New("Mode: give Live, Test or nothing")
	}
	return nil
}

// setDefaults fills in what is zero.
func (c *Config) setDefaults() {
	if c.Tolerance == 0 {
		c.Tolerance = defaultTolerance
	}
	if c.ParkedFor == 0 {
		c.ParkedFor = hostdb.WebhookRetention
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Format implements fmt.Formatter: whatever the verb, it writes no secret.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, c.summary())
}

// MarshalText implements encoding.TextMarshaler, which JSON and slog use, with the text of Format.
func (c Config) MarshalText() ([]byte, error) {
	return []byte(c.summary()), nil
}

func (c Config) summary() string {
	return fmt.Sprintf("stripehook.Config{%d secrets, mode %q, account %q}", len(c.Secrets), c.Mode, c.Account)
}
