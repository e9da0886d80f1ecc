package hostdb

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tenantdb/tenantdb/internal/dburl"
)

// instance is the process-wide DB of FromEnv. turn guards the rest. It is a channel, so that waiting ends
// with the caller's context.
var instance = struct {
	turn chan struct{}
	db   *DB
	from *origin // which database db is, or was to be
}{turn: make(chan struct{}, 1)}

// FromEnv returns the process-wide DB, opened by the first call from these variables:
//
//   - DB_TYPE: POSTGRESQL, the default, or SQLITE, in any case.
//   - DB_NAME, default app_host: the database. For SQLite the file DB_NAME.db; a name that ends in ".db", or
//     that a file has already,
//     is the file's whole name.
//   - DB_USER, default postgres, and DB_PASS, which PostgreSQL requires and which may hold any character.
//   - DB_HOST, default localhost: a host's name, an IP address, or the directory of a socket; or several with
//     commas between them, of
//     which one serves. DB_PORT, default 5432, is the port of each.
//   - DB_SSLMODE: libpq's sslmode (disable, allow, prefer, require, verify-ca, verify-full), default prefer.
//
// An error is not remembered: the next call tries again. But once a database has been named that could be
// opened, or not, no call returns another one, and once it has been closed, none opens it again: that is
// ErrInvalid and ErrUnavailable, until ResetInstance.
//
// Errors: as for Open; the *FieldError names the variable.
func FromEnv(ctx context.Context) (*DB, error) {
	return FromEnvConfig(ctx, Config{})
}

// FromEnvConfig is FromEnv with more choices for the call that opens the DB; later calls return it as it is.
// Config.URL is for the variables to say: ErrInvalid where it is set.
func FromEnvConfig(ctx context.Context, config Config) (*DB, error) {
	if config.URL != "" {
		return nil, invalid("URL", "FromEnv reads it from the environment; use OpenConfig")
	}
	select {
	case instance.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, translate(ctx, ctx.Err(), asReported)
	}
	defer func() { <-instance.turn }()
	if db := instance.db; db != nil {
		if db.isClosed() {
			return nil, &failure{kind: ErrUnavailable,
				text: "the database of FromEnv is closed; keep it open, or call ResetInstance to open it " +
					"again"}
		}
		return db, nil
	}
	var err error
	if config.URL, err = URLFromEnv(os.Getenv); err != nil {
		return nil, err
	}
	from, err := parseURL(config.URL.Reveal())
	if err != nil {
		return nil, envError(err)
	}
	if instance.from != nil && !instance.from.same(from) {
		return nil, invalid("DB_NAME",
			"with DB_TYPE, DB_HOST and DB_PORT it names another database than the one that an earlier call "+
				"could not open; call ResetInstance to change over")
	}
	instance.from = from
	db, err := OpenConfig(ctx, config)
	if err != nil {
		return nil, envError(err)
	}
	instance.db = db
	return db, nil
}

// ResetInstance closes and forgets the DB of FromEnv, for tests.
func ResetInstance() error {
	instance.turn <- struct{}{}
	defer func() { <-instance.turn }()
	db := instance.db
	instance.db, instance.from = nil, nil
	if db == nil {
		return nil
	}
	return db.Close()
}

// URLFromEnv returns the URL that FromEnv opens, for OpenConfig. getenv is os.Getenv. Errors: as for FromEnv,
// without those of Open.
func URLFromEnv(getenv func(string) string) (Secret, error) {
	or := func(name, value string) string {
		if given := getenv(name); given != "" {
			return given
		}
		return value
	}
	switch strings.ToUpper(or("DB_TYPE", "POSTGRESQL")) {
	case "SQLITE":
		name, err := fileFromEnv(or("DB_NAME", "app_host"))
		return Secret("sqlite:" + name), err
	case "POSTGRESQL":
	default:
		return "", invalid("DB_TYPE", "must be POSTGRESQL or SQLITE")
	}
	if getenv("DB_PASS") == "" {
		return "", invalid("DB_PASS", "is required for PostgreSQL; set it, or set DB_TYPE=SQLITE")
	}
	port := or("DB_PORT", "5432")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", invalid("DB_PORT", "must be a number from 1 to 65535")
	}
	var parameters []string
	if mode := getenv("DB_SSLMODE"); mode != "" {
		if !slices.Contains(sslModes, mode) {
			return "", invalid("DB_SSLMODE", "must be one of "+strings.Join(sslModes, ", "))
		}
		parameters = []string{"sslmode", mode}
	}
	as := dburl.Role{Name: or("DB_USER", "postgres"), Password: getenv("DB_PASS")}
	given, err := dburl.Write(as, or("DB_HOST", "localhost"), port, or("DB_NAME", "app_host"), parameters...)
	if err != nil { // all but the host is escaped
		return "", invalid("DB_HOST",
			"must be a host's name, an IP address without brackets, or the directory of a socket, or "+
				"several, with commas")
	}
	return Secret(given), nil
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// fileFromEnv returns the SQLite file that DB_NAME stands for. Where there are both candidates one may be an
// empty file that somebody made by mistake, so that neither is taken.
func fileFromEnv(name string) (string, error) {
	if name == ":memory:" || strings.HasSuffix(name, ".db") {
		return name, nil
	}
	isFile := func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.Mode().IsRegular()
	}
	exact, withSuffix := isFile(name), isFile(name+".db")
	switch {
	case exact && withSuffix:
		return "", invalid("DB_NAME",
			"there are two files, one with this name and one with .db after it; remove the wrong one, or "+
				"add the .db")
	case exact:
		return name, nil
	}
	return name + ".db", nil
}

// same reports whether two origins are one database, whoever asks for it.
func (o *origin) same(other *origin) bool {
	if o.address == nil || other.address == nil {
		return o.engine == other.engine && o.path == other.path
	}
	return slices.Equal(o.address.Hosts(), other.address.Hosts()) &&
		o.address.Database() == other.address.Database()
}

// envError names the variable instead of the part of the URL.
func envError(err error) error {
	var field *FieldError
	if !errors.As(err, &field) {
		return err
	}
	name := map[string]string{"url.host": "DB_HOST", "url.password": "DB_PASS", "url.user": "DB_USER",
		"url.database": "DB_NAME", "url.path": "DB_NAME", "url.search_path": "DB_NAME",
		"url": "DB_NAME"}[field.Field]
	if name == "" {
		return err
	}
	return &FieldError{Field: name, Err: field.Err, Reason: field.Reason}
}
