package jwtauth

import (
	"net/http"
	"strings"

	"github.com/tenantdb/tenantdb"
)

// credentialOf returns the token of a request, and whether it came in a cookie. cookie is that cookie's name.
// If it is empty, cookies are ignored.
func credentialOf(h http.Header, cookie string) (token string, fromCookie bool, err error) {
	headers := h["Authorization"]
	cookies := 0
	if cookie != "" {
		token, cookies = cookieNamed(h["Cookie"], cookie)
	}
	switch {
	case len(headers)+cookies > 1:
		return "", false, errSeveral
	case len(headers) == 1:
		token, err = bearerToken(headers[0])
		return token, false, err
	case cookies == 0:
		return "", false, tenantdb.ErrNoCredential
	}
	return token, true, nil
}

// bearerToken returns the token of an Authorization header (RFC 6750, section 2.1). The case of the scheme
// does not matter. Another scheme is an invalid credential rather than none: its sender did mean to
// authenticate.
func bearerToken(authorization string) (string, error) {
	const scheme = "Bearer"
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) ||
		authorization[len(scheme)] != ' ' {
		return "", errScheme
	}
	token := strings.TrimLeft(authorization[len(scheme):], " ")
	if token == "" {
		return "", errScheme
	}
	return token, nil
}

// cookieNamed returns the value of a cookie and how often it was sent. An empty value does not count: a
// browser may keep one after signing out. cookieNamed reads as net/http does, but does not allocate.
func cookieNamed(lines []string, name string) (value string, count int) {
	const space = " \t\r\n"
	for _, line := range lines {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			key, v, _ := strings.Cut(strings.Trim(pair, space), "=")
			if strings.Trim(key, space) != name {
				continue
			}
			if len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			if v != "" {
				value = v
				count++
			}
		}
	}
	return value, count
}
