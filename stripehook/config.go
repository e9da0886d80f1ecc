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

// Config describes an endpoint. Secrets are required. The zero value of every other field is safe.
type Config struct {
	// Secrets are the endpoint's signing secrets as Stripe shows them ("whsec_…"): one, or several while they
	// are rotated, at most 8. What any of them signs is accepted, so never give one that another program
	// knows.
	Secrets []string
	// Tolerance is how far the time of a signature may be from now, in either direction. Default: 5 minutes,
	// as in Stripe's libraries.
	Tolerance time.Duration
	// Mode says which events are applied: Live or Test. Default: all that the secrets sign. Endpoints of the
	// two modes have different secrets, so set Mode if Secrets could hold one of each. Events of the other
	// mode are answered 200 and change nothing.
	Mode Mode
	// Account is the connected account (Stripe Connect, "acct_…") whose events are applied. Default: the
	// account that owns the endpoint, without connected ones. Other accounts' events are answered 200 and
	// change nothing.
	Account string
	// Fetcher, if set, is asked for a subscription instead of reading it from the event. All invoices and
	// sessions ask it, and events of the subscription that are not older than the second its row has reached.
	Fetcher Fetcher
	// Accept, if set, chooses the events that are for this program, for a Stripe account that several
	// products share. Events that it refuses are answered 200 and not stored. It is called before anything is
	// written, may be called again for the same event, and must not block. If it panics, the event is
	// accepted. Default: all events.
	Accept func(Event) bool
	// DenyPaused treats a subscription whose pause_collection is set as paused, so that it admits nobody
	// until payments are collected again. Default: Stripe's status counts, which stays active meanwhile,
	// since the service may be given away for that time
	// (docs.stripe.com/billing/subscriptions/pause-payment).
	DenyPaused bool
	// ParkedFor is how long an event waits for the subscription or the tenant that it is about. After that it
	// is recorded as failed, with the reason. Default: 30 days.
	ParkedFor time.Duration
	// Logger receives what happens to events (level Info, or Warn if one is parked or fails) and refused
	// requests (level Debug). Of a payload it gets ids and types only. Default: none.
	Logger *slog.Logger
	// Observer is told what happens to deliveries. Default: none.
	Observer *Observer
	// Now is the clock that signatures are compared with. Default: time.Now.
	Now func() time.Time
}

// Mode is one of Stripe's two modes.
type Mode string

// The modes.
const (
	Live Mode = "live"
	Test Mode = "test"
)

// Fetcher gets a subscription from Stripe. It is called while the subscription's row is locked, so that the
// last fetch wins. On SQLite all other writers of the host database wait meanwhile.
type Fetcher interface {
	// Subscription returns the subscription object as JSON (GET /v1/subscriptions/{id}), at most 1 MiB. After
	// an error Stripe delivers the event again. ctx ends after 10 seconds.
	Subscription(ctx context.Context, id string) ([]byte, error)
}

const (
	defaultTolerance = 5 * time.Minute
	maxSecrets       = 8
)

// validate returns an error that names what is missing and how to fix it.
func (c *Config) validate() error {
	if len(c.Secrets) == 0 || len(c.Secrets) > maxSecrets {
		return fmt.Errorf("Secrets: give the endpoint's signing secret, and at most %d", maxSecrets)
	}
	for _, secret := range c.Secrets {
		switch {
		case secret == "":
			return errors.New("Secrets: one is empty, and anybody could sign with it")
		case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
			return errors.New("Secrets: one holds a space, a line's end or another character that no " +
				"secret has")
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

// setDefaults replaces zero values.
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

// Format implements [fmt.Formatter]. It writes no secret, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, c.summary())
}

// MarshalText implements [encoding.TextMarshaler], which JSON and slog use, with the text of Format.
func (c Config) MarshalText() ([]byte, error) {
	return []byte(c.summary()), nil
}

func (c Config) summary() string {
	return fmt.Sprintf("stripehook.Config{%d secrets, mode %q, account %q}", len(c.Secrets), c.Mode,
		c.Account)
}
