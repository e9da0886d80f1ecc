package hostdb

import (
	"context"
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// origin is where a database is.
type origin struct {
	engine engine
	url    Secret
	masked string
	path   string          // SQLite: the file; "" in memory
	file   os.FileInfo     // SQLite: which file that was when it was opened
	dsn    string          // SQLite: the driver's name of it, up to the parameters
	server *pgx.ConnConfig // PostgreSQL
}

const urlForms = "write sqlite:path/to/host.db, sqlite::memory: or postgres://user:password@host:5432/database"

// parseURL reads a URL. Errors: ErrInvalid on "url".
func parseURL(given string) (*origin, error) {
	scheme, rest, found := strings.Cut(given, ":")
	switch {
	case strings.ContainsRune(given, 0):
		return nil, invalid("url", "holds a NUL")
	case !found:
		return nil, invalid("url", urlForms)
	case scheme == "sqlite":
		return parseSQLite(given, rest)
	case scheme == "postgres" || scheme == "postgresql":
		return parsePostgres(given)
	}
	return nil, invalid("url", urlForms)
}

func parseSQLite(given, path string) (*origin, error) {
	from := &origin{engine: embedded, url: Secret(given), masked: given}
	if strings.Contains(given, "@") || strings.Contains(given, "://") { // another engine's URL, taken for a file's name
		from.masked = mask
	}
	switch {
	case path == ":memory:":
		return from, nil
	case path == "":
		return nil, invalid("url", "names no file; "+urlForms)
	case strings.HasPrefix(path, ":"), strings.HasPrefix(path, "//"):
		return nil, invalid("url", "write sqlite:/absolute/path or sqlite:relative/path")
	}
	from.path = path
	return from, nil
}

func parsePostgres(given string) (*origin, error) {
	u, err := url.Parse(given)
	if err != nil || u.Opaque != "" { // the parser's error repeats the URL
		return nil, invalid("url", "is malformed; escape special characters of the password (net/url.UserPassword does)")
	}
	server, err := pgx.ParseConfig(given)
	if err != nil {
		return nil, invalid("url", "has a parameter that is malformed or unknown, or names a file that can't be read")
	}
	if server.ValidateConnect == nil && !u.Query().Has("target_session_attrs") {
		server.ValidateConnect = refuseStandby
	}
	return &origin{engine: postgres, url: Secret(given), masked: maskURL(u), server: server}, nil
}

// refuseStandby is for a standby among the URL's hosts, or behind a name that moves: it would answer with facts of any age.
func refuseStandby(ctx context.Context, conn *pgconn.PgConn) error {
	err := pgconn.ValidateConnectTargetSessionAttrsPrimary(ctx, conn)
	var pg *pgconn.PgError
	if err == nil || errors.As(err, &pg) || ctx.Err() != nil || conn.IsClosed() {
		return err
	}
	return &FieldError{Field: "url.host", Err: ErrUnavailable, Reason: "the server is a standby; name the primary, too"}
}

// shownParameters are those of a URL whose values are shown. What others hold is anybody's guess.
var shownParameters = []string{"application_name", "connect_timeout", "default_query_exec_mode", "host", "pool_max_conns", "port", "sslmode",
	"sslrootcert", "target_session_attrs", "user"}

// maskURL hides the password, also where it is a parameter, and every parameter's value that may be one. An unescaped password can end up
// in any part of a URL: where one part looks like that, all is hidden.
func maskURL(u *url.URL) string {
	masked := *u
	if strings.Contains(u.EscapedPath()+u.RawQuery, "@") || strings.Contains(u.Path, "@") || u.Fragment != "" || u.ForceQuery {
		return mask
	}
	if _, has := u.User.Password(); has {
		masked.User = url.UserPassword(u.User.Username(), "xxxxx")
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if !strings.Contains(pair, "=") && pair != "" {
			return mask
		}
	}
	query := masked.Query()
	for name := range query {
		if !slices.Contains(shownParameters, name) {
			query.Set(name, "xxxxx")
		}
	}
	masked.RawQuery = query.Encode()
	return masked.String()
}

// MaskURL returns a database's URL with the password and unknown parameters masked; of one that can't be read, or whose password may have
// ended up elsewhere in it, nothing but the mask.
func MaskURL(given Secret) string {
	from, err := parseURL(given.Reveal())
	if err != nil {
		return given.String()
	}
	return from.masked
}
