package jwtauth

import (
	"net/http"
	"strings"

	"github.com/tenantdb/tenantdb"
)

// credentialOf returns the token that a request carries, and whether a cookie carries it. cookie names that
// cookie; without a name no cookie counts.
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

// bearerToken returns the token of an Authorization header (RFC 6750, section 2.1). The scheme is written in
// any case. Another scheme is an invalid credential rather than none: who sent it did not mean to come
// without.
func bearerToken(authorization string) (string, error) {
	const scheme = "Bearer"
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) || authorization[len(scheme)] != ' ' {
		return "", errScheme
	}
	token := strings.TrimLeft(authorization[len(scheme):], " ")
	if token == "" {
		return "", errScheme
	}
	return token, nil
}

// cookieNamed returns the value of a cookie and how often it is sent. An empty value, which is what a
// signed-out browser may keep, does not count. It reads as net/http does, but allocates nothing.
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
