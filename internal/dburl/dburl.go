// Package dburl parses the addresses of databases: the host database's, that of the server for new
// databases, and tenants' db_urls. No other package of the module does.
//
// An address is "sqlite:" with the path of a file, or a PostgreSQL URL as libpq and pgx parse it
// (www.postgresql.org/docs/current/libpq-connect.html, section 34.1.1.2): with several hosts, IPv6
// addresses, and directories of sockets, percent-encoded or in the parameter host. libpq's keyword/value
// strings (host=… dbname=…) are refused.
package dburl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// The errors of [Parse] and [Write]. No error repeats a part of an address.
var (
	errForm = errors.New("is no address of a database; write sqlite:path/to/file.db or " +
		"postgres://user:password@host:5432/database")
	errMalformed = errors.New("is malformed; escape special characters of the password, an @ as %40")
	errParameter = errors.New(
		"has a port or a parameter that is malformed or unknown, or names a file that " + "can't be read")
)

// File returns the path in the address of a SQLite database, as written. ok is false for other addresses.
func File(text string) (path string, ok bool) {
	return strings.CutPrefix(text, "sqlite:")
}

// URL is the address of a PostgreSQL database.
type URL struct {
	parts
	config *pgx.ConnConfig
}

// parts are the parts of a URL as written.
type parts struct {
	scheme         string // "postgres://" or "postgresql://"
	user, password string
	hasUser        bool   // there is an @, even without a name before it
	hosts          string // with their ports
	path           string // "/" and the database, or ""
	query          []parameter
}

// parameter is a parameter of a URL.
type parameter struct {
	name string // decoded; "database" if dbname is written, as in pgx
	text string // name=value as written
}

// Role is the role that connects.
type Role struct{ Name, Password string }

// Format implements fmt.Formatter. Every verb writes only the name.
func (r Role) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.Name) }

// Parse parses a PostgreSQL URL. Missing parts (port, user, database, …) are taken from the environment, as
// in libpq.
func Parse(text string) (*URL, error) {
	p, err := split(text)
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(text)
	if err != nil { // pgx's error repeats the URL and masks what it takes for the password
		return nil, errParameter
	}
	return &URL{p, config}, nil
}

// split splits a URL where libpq and pgx do: the part before the first @ names the user, unless there is a
// slash before it.
func split(text string) (p parts, err error) {
	found := false
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if strings.HasPrefix(text, scheme) {
			p.scheme, text, found = scheme, text[len(scheme):], true
			break
		}
	}
	switch {
	case !found:
		return p, errForm
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return p, errMalformed
	}
	if i := strings.IndexAny(text, "@/"); i >= 0 && text[i] == '@' {
		p.user, p.password, _ = strings.Cut(text[:i], ":")
		p.hasUser, text = true, text[i+1:]
	}
	text, query, _ := strings.Cut(text, "?")
	if i := strings.IndexByte(text, '/'); i >= 0 {
		text, p.path = text[:i], text[i:]
	}
	if p.hosts = text; strings.ContainsAny(text, notInHosts) ||
		strings.Count(text, "[") != strings.Count(text, "]") {
		return p, errMalformed
	}
	if query = strings.TrimSuffix(query, "&"); query == "" {
		return p, nil
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, _, ok := strings.Cut(pair, "=")
		name, err := url.PathUnescape(name)
		if !ok || err != nil {
			return p, errParameter
		}
		if name == "dbname" {
			name = "database"
		}
		p.query = append(p.query, parameter{name, pair})
	}
	return p, nil
}

// notInHosts are characters that no list of hosts and ports contains, but a misplaced password may.
const notInHosts = "@#&=;!$'()*+\"<>\\^`{|}"

// value is a parameter's value.
func (q parameter) value() string {
	_, value, _ := strings.Cut(q.text, "=")
	decoded, _ := url.PathUnescape(value) // pgx has decoded it without error
	return decoded
}

// Config returns pgx's configuration for the address. Its DialFunc is [pghosts.Dial]. If the address has
// target_session_attrs, ValidateConnect is set, even for "any", for which pgx sets none.
func (u *URL) Config() *pgx.ConnConfig {
	config := u.config.Copy()
	config.DialFunc = pghosts.Dial
	if config.ValidateConnect == nil && u.has("target_session_attrs") {
		config.ValidateConnect = acceptAny
	}
	return config
}

func acceptAny(context.Context, *pgconn.PgConn) error { return nil }

// Hosts returns the host and port of each server, in the URL's order. Any of them may be the one that
// serves.
func (u *URL) Hosts() []string {
	hosts := []string{hostPort(u.config.Host, u.config.Port)}
	for _, next := range u.config.Fallbacks { // a host is listed twice if TLS is optional
		if host := hostPort(next.Host, next.Port); host != hosts[len(hosts)-1] {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// Server identifies the server for counting its connections: its hosts and ports, sorted and joined by
// commas. The order of the hosts only says which is tried first.
func (u *URL) Server() string {
	hosts := u.Hosts()
	slices.Sort(hosts)
	return strings.Join(hosts, ",")
}

// Database returns the name of the database. "" means the user's name.
func (u *URL) Database() string { return u.config.Database }

// User returns the name of the role.
func (u *URL) User() string { return u.config.User }

// Password returns the role's password, or "".
func (u *URL) Password() string { return u.config.Password }

// Unnamed returns the query mode that leaves no prepared statement on a connection, whose next transaction
// may be another client's. A mode in the URL takes precedence.
func (u *URL) Unnamed() pgx.QueryExecMode {
	if u.has("default_query_exec_mode") {
		return u.config.DefaultQueryExecMode
	}
	return pgx.QueryExecModeCacheDescribe
}

// has reports whether the address itself has a parameter.
func (u *URL) has(name string) bool {
	return slices.ContainsFunc(u.query, func(q parameter) bool { return q.name == name })
}

// With returns the address of another database of the server. as is the role, or nil to keep it.
func (u *URL) With(database string, as *Role) string {
	replaced := []string{"database"}
	who := ""
	switch {
	case as != nil:
		who = escape(as.Name) + ":" + escape(as.Password) + "@"
		replaced = append(replaced, "user", "password")
	case u.hasUser:
		who = u.user + ":" + u.password + "@"
		if u.password == "" {
			who = u.user + "@"
		}
	}
	var query []string
	for _, q := range u.query {
		if !slices.Contains(replaced, q.name) {
			query = append(query, q.text)
		}
	}
	text := u.scheme + who + u.hosts + "/" + escape(database)
	if len(query) > 0 {
		text += "?" + strings.Join(query, "&")
	}
	return text
}

// escape escapes all characters except those that RFC 3986 calls unreserved.
func escape(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}

// Write returns the address of a database. hosts are names, IP addresses without brackets, or directories of
// sockets, separated by commas. All have the same port. parameters alternate between names and values. An
// invalid host is an error.
func Write(as Role, hosts, port, database string, parameters ...string) (string, error) {
	if strings.HasPrefix(hosts, "/") || strings.Contains(hosts, ",/") {
		parameters = append([]string{"host", hosts, "port", port}, parameters...)
		hosts = ""
	} else {
		named := strings.Split(hosts, ",")
		for i, host := range named {
			if host == "" || strings.ContainsAny(host, notInHosts+"/?%[]") {
				return "", errMalformed
			}
			named[i] = net.JoinHostPort(host, port)
		}
		hosts = strings.Join(named, ",")
	}
	text := "postgres://" + escape(as.Name) + ":" + escape(as.Password) + "@" + hosts + "/" + escape(database)
	for i := 0; i < len(parameters); i += 2 {
		text += string("?&"[min(i, 1)]) + parameters[i] + "=" + escape(parameters[i+1])
	}
	_, err := split(text)
	return text, err
}
