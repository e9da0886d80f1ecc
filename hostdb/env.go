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

// instance is the process-wide DB of FromEnv. The lock turn guards the rest. It is a channel, so that
// waiting for it ends with the caller's context.
var instance = struct {
	turn chan struct{}
	db   *DB
	from *origin // the database that was or should have been opened
}{turn: make(chan struct{}, 1)}

// FromEnv returns the process-wide DB. The first call opens it from these variables:
//
//   - DB_TYPE: POSTGRESQL (the default) or SQLITE, in any case.
//   - DB_NAME: the database. The default is app_host. For SQLite it is the file DB_NAME.db. A name that ends
//     in ".db", or that an existing file has, is the whole file name.
//   - DB_USER and DB_PASS: the role, by default postgres, and its password. PostgreSQL requires a password.
//     It may contain any character.
//   - DB_HOST: a host name, an IP address or the directory of a socket; or several of these, separated by
//     commas, of which one serves. The default is localhost.
//   - DB_PORT: the port of every host. The default is 5432.
//   - DB_SSLMODE: libpq's sslmode (disable, allow, prefer, require, verify-ca, verify-full). The default is
//     prefer.
//
// A failed call may be repeated: the next one tries again. But once a call has named a valid database, no
// call returns another one, and once that database was closed, no call opens it again. These calls fail with
// ErrInvalid and ErrUnavailable until [ResetInstance].
//
// Errors: as for [Open]; the *FieldError names the variable.
func FromEnv(ctx context.Context) (*DB, error) {
	return FromEnvConfig(ctx, Config{})
}

// FromEnvConfig is [FromEnv] with more options for the call that opens the DB. Later calls return the open
// DB and ignore config. Config.URL must be empty; otherwise the error is ErrInvalid.
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

// ResetInstance closes and forgets the DB of FromEnv. It is for tests.
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

// URLFromEnv returns the URL that FromEnv opens, for use with OpenConfig. getenv is usually os.Getenv.
// Errors: those of [FromEnv] about the variables themselves.
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
	if err != nil { // everything but the host is escaped
		return "", invalid("DB_HOST",
			"must be a host's name, an IP address without brackets, or the directory of a socket, or "+
				"several, with commas")
	}
	return Secret(given), nil
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// fileFromEnv returns the SQLite file that DB_NAME names. If both candidates exist, one may be an empty file
// created by mistake, so it chooses neither.
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

// same reports whether two origins are the same database, whatever the role.
func (o *origin) same(other *origin) bool {
	if o.address == nil || other.address == nil {
		return o.engine == other.engine && o.path == other.path
	}
	return slices.Equal(o.address.Hosts(), other.address.Hosts()) &&
		o.address.Database() == other.address.Database()
}

// envError replaces the URL's part in an error by the variable's name.
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
