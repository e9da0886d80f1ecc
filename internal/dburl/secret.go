package dburl

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
)

// shownParameters are the parameters whose values Mask shows. The others may contain anything.
var shownParameters = []string{"application_name", "connect_timeout", "default_query_exec_mode", "host",
	"pool_max_conns", "port", "sslmode", "sslrootcert", "target_session_attrs", "user"}

const hidden = "xxxxx"

// Mask returns an address without its password and without the values of parameters that may be one. An
// unescaped password can end up in any part of an address. ok is false if one part looks like that, or if
// the address can't be parsed. Then nothing of it may be shown.
func Mask(text string) (masked string, ok bool) {
	if _, ok := File(text); ok { // shows nothing of another engine's address that was taken for a file's name
		return text, !strings.Contains(text, "@") && !strings.Contains(text, "://")
	}
	u, err := Parse(text)
	if err != nil {
		return "", false
	}
	return u.mask()
}

func (u *URL) mask() (masked string, ok bool) {
	var query []string
	for _, q := range u.query {
		text := q.text
		if !slices.Contains(shownParameters, q.name) {
			name, _, _ := strings.Cut(text, "=")
			text = name + "=" + hidden
		}
		if strings.ContainsAny(q.text+q.value(), "@#") {
			return "", false
		}
		query = append(query, text)
	}
	if database, err := url.PathUnescape(u.path); err != nil || strings.ContainsAny(u.path+database, "@#") {
		return "", false
	}
	masked = u.scheme
	switch {
	case u.password != "":
		masked += u.user + ":" + hidden + "@"
	case u.hasUser:
		masked += u.user + "@"
	}
	masked += u.hosts + u.path
	if len(query) > 0 {
		masked += "?" + strings.Join(query, "&")
	}
	return masked, true
}

// Format implements fmt.Formatter. Every verb writes the masked address.
func (u *URL) Format(f fmt.State, _ rune) {
	masked, ok := u.mask()
	if !ok {
		masked = hidden
	}
	_, _ = io.WriteString(f, masked)
}

// Secrets returns the passwords in an address, even if pgx refuses it. ok is false if the address can't be
// split.
func Secrets(text string) (secrets []string, ok bool) {
	if _, ok := File(text); ok {
		return nil, true
	}
	p, err := split(text)
	if err != nil {
		return nil, false
	}
	add := func(secret string) {
		if secret != "" {
			secrets = append(secrets, secret)
		}
	}
	add(p.password)
	for _, q := range p.query {
		if q.name == "password" || q.name == "sslpassword" {
			_, value, _ := strings.Cut(q.text, "=")
			add(value)
		}
	}
	return secrets, true
}

// Redact replaces an address's passwords in a text, both decoded and as they may be written in a URL.
func Redact(text, address string) string {
	if address != "" {
		text = strings.ReplaceAll(text, address, "***")
	}
	secrets, _ := Secrets(address)
	for _, written := range secrets {
		secret, err := url.PathUnescape(written)
		if err != nil {
			secret = written
		}
		_, userinfo, _ := strings.Cut(url.UserPassword("", secret).String(), ":")
		for _, form := range []string{written, secret, escape(secret), userinfo, url.QueryEscape(secret)} {
			text = strings.ReplaceAll(text, form, "***")
		}
	}
	return text
}
