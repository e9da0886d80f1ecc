package jwtauth

import (
	"fmt"
	"io"
)

// Format implements fmt.Formatter: whatever the verb, it writes who is trusted, and no key.
func (c Config) Format(f fmt.State, _ rune) {
	io.WriteString(f, c.summary())
}

// MarshalText implements encoding.TextMarshaler, which JSON and slog use, with the text of Format.
func (c Config) MarshalText() ([]byte, error) {
	return []byte(c.summary()), nil
}

func (c Config) summary() string {
	first := c.first()
	return fmt.Sprintf("jwtauth.Config{%s, and %d others}", first.rules(), len(c.Others))
}

// Format implements fmt.Formatter: whatever the verb, it writes who is trusted, and no key.
func (c IssuerConfig) Format(f fmt.State, _ rune) {
	io.WriteString(f, c.summary())
}

// MarshalText implements encoding.TextMarshaler, which JSON and slog use, with the text of Format.
func (c IssuerConfig) MarshalText() ([]byte, error) {
	return []byte(c.summary()), nil
}

func (c IssuerConfig) summary() string {
	return fmt.Sprintf("jwtauth.IssuerConfig{%s}", c.rules())
}

// rules names an issuer without its keys.
func (c IssuerConfig) rules() string {
	return fmt.Sprintf("issuer %q, audience %q, algorithms %q", c.Issuer, c.Audience, c.Algorithms)
}
