package hostdb

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/dburl"
)

// origin is the address of a database.
type origin struct {
	engine engine
	url    Secret
	masked string
	path   string      // SQLite: the file; "" in memory
	file   os.FileInfo // SQLite: identifies the file that was opened
	dsn    string      // SQLite: the driver's data source name without parameters
	// Of PostgreSQL only:
	address *dburl.URL
	server  *pgx.ConnConfig
}

// parseURL parses a URL. Errors: ErrInvalid on "url".
func parseURL(given string) (*origin, error) {
	if strings.ContainsRune(given, 0) {
		return nil, invalid("url", "holds a NUL")
	}
	if path, ok := dburl.File(given); ok {
		return parseSQLite(given, path)
	}
	return parsePostgres(given)
}

func parseSQLite(given, path string) (*origin, error) {
	from := &origin{engine: sqlite, url: Secret(given), masked: maskOf(given)}
	switch {
	case path == ":memory:":
		return from, nil
	case path == "":
		return nil, invalid("url", "names no file; write sqlite:path/to/host.db or sqlite::memory:")
	case strings.HasPrefix(path, ":"), strings.HasPrefix(path, "//"):
		return nil, invalid("url", "write sqlite:/absolute/path or sqlite:relative/path")
	}
	from.path = path
	return from, nil
}

func parsePostgres(given string) (*origin, error) {
	address, err := dburl.Parse(given)
	if err != nil {
		return nil, invalid("url", err.Error())
	}
	from := &origin{engine: postgres, url: Secret(given), masked: maskOf(given), address: address,
		server: address.Config()}
	if from.server.ValidateConnect == nil {
		from.server.ValidateConnect = refuseStandby
	}
	return from, nil
}

// refuseStandby is the default ValidateConnect. A standby among the URL's hosts, or behind a name that
// moves, would answer with facts of any age.
func refuseStandby(ctx context.Context, conn *pgconn.PgConn) error {
	err := pgconn.ValidateConnectTargetSessionAttrsPrimary(ctx, conn)
	var pg *pgconn.PgError
	if err == nil || errors.As(err, &pg) || ctx.Err() != nil || conn.IsClosed() {
		return err
	}
	return unavailable("url.host", "the server is a standby; name the primary as well")
}

// MaskURL returns a database's URL with the password and unknown parameters masked. If the URL can't be
// parsed, or its password may be in another part of it, it returns only the mask.
func MaskURL(given Secret) string {
	if _, err := parseURL(given.Reveal()); err != nil {
		return given.String()
	}
	return maskOf(given.Reveal())
}

func maskOf(given string) string {
	if masked, ok := dburl.Mask(given); ok {
		return masked
	}
	return mask
}
