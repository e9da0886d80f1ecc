package hostdb

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// instance guards the process-wide DB of FromEnv. A channel, so that waiting ends with the caller's context.
var instance = struct {
	turn chan struct{}
	db   *DB
}{turn: make(chan struct{}, 1)}

// FromEnv returns the process-wide DB, opened by the first call from DB_TYPE (POSTGRESQL, the default, or SQLITE), DB_USER
// (postgres), DB_PASS (required for PostgreSQL), DB_HOST (localhost; or a socket's directory), DB_PORT (5432) and DB_NAME
// (app_host; for SQLite the file app_host.db). DB_PASS may hold any character. An error is not remembered: the next call tries
// again.
//
// Errors: as for Open; the *FieldError names the variable.
func FromEnv(ctx context.Context) (*DB, error) {
	select {
	case instance.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, translate(ctx, ctx.Err(), nothing)
	}
	defer func() { <-instance.turn }()
	if instance.db != nil && !instance.db.isClosed() {
		return instance.db, nil
	}
	given, err := URLFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	db, err := OpenConfig(ctx, Config{URL: given})
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
	instance.db = nil
	if db == nil {
		return nil
	}
	return db.Close()
}

// URLFromEnv returns the URL that FromEnv opens, for OpenConfig. getenv is os.Getenv. Errors: as for FromEnv, without those of Open.
func URLFromEnv(getenv func(string) string) (Secret, error) {
	or := func(name, value string) string {
		if given := getenv(name); given != "" {
			return given
		}
		return value
	}
	switch or("DB_TYPE", "POSTGRESQL") {
	case "SQLITE":
		return Secret("sqlite:" + or("DB_NAME", "app_host.db")), nil
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
	u := url.URL{Scheme: "postgres", User: url.UserPassword(or("DB_USER", "postgres"), getenv("DB_PASS")),
		Path: "/" + or("DB_NAME", "app_host")}
	if host := or("DB_HOST", "localhost"); strings.HasPrefix(host, "/") {
		u.RawQuery = url.Values{"host": {host}, "port": {port}}.Encode()
	} else {
		u.Host = net.JoinHostPort(host, port)
	}
	given := u.String()
	if _, err := url.Parse(given); err != nil { // all but the host is escaped
		return "", invalid("DB_HOST", "must be a host's name, an IP address without brackets, or the directory of a socket")
	}
	return Secret(given), nil
}

// envError names the variable instead of the part of the URL.
func envError(err error) error {
	var field *FieldError
	if !errors.As(err, &field) {
		return err
	}
	name := map[string]string{"url.host": "DB_HOST", "url.password": "DB_PASS", "url.user": "DB_USER", "url.database": "DB_NAME",
		"url.path": "DB_NAME", "url": "DB_NAME"}[field.Field]
	if name == "" {
		return err
	}
	return &FieldError{Field: name, Err: field.Err, Reason: field.Reason}
}
