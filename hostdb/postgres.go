package hostdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const oldestPostgres = 130000

// openPostgres connects, upgrades the schema and sets the pool up.
func (db *DB) openPostgres(ctx context.Context) error {
	server := db.origin.server
	if server.ConnectTimeout == 0 {
		server.ConnectTimeout = db.config.ConnectTimeout
	}
	if db.config.NoNotify {
		server.RuntimeParams["hostdb.notify"] = "off"
	}
	connector := stdlib.GetConnector(*server)
	if err := db.migrate(ctx, connector); err != nil {
		return connectError(ctx, err)
	}
	pool := sql.OpenDB(connector)
	limit := db.config.MaxConns
	if limit == 0 {
		limit = 10
	}
	pool.SetMaxOpenConns(limit)
	pool.SetMaxIdleConns(limit)
	db.write, db.read = pool, pool
	db.onClosing = append(db.onClosing, pool.Close)
	return nil
}

// checkPostgres refuses servers that are too old.
func checkPostgres(ctx context.Context, on querier) error {
	version := 0
	err := each(ctx, on, "SELECT current_setting('server_version_num')::int", func(row scanner) error { return row.Scan(&version) })
	if err == nil && version < oldestPostgres {
		return &FieldError{Field: "url", Err: ErrInvalid, Reason: "the server is older than PostgreSQL 13; upgrade it"}
	}
	return err
}

// connectError says which part of the URL a failure to connect is about.
func connectError(ctx context.Context, err error) error {
	var own *FieldError
	var pg *pgconn.PgError
	var dns *net.DNSError
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(context.Cause(ctx), context.Canceled):
		return translate(ctx, err, nothing)
	case errors.As(err, &pg):
		return refused(pg, err)
	case errors.As(err, &dns):
		return &FieldError{Field: "url.host", Err: ErrUnavailable, Reason: "the host's name is unknown; check it"}
	case errors.As(err, &connect), errors.Is(err, driver.ErrBadConn), ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return &FieldError{Field: "url.host", Err: ErrUnavailable,
			Reason: "no PostgreSQL answers there; check host, port, sslmode, and that the server runs"}
	}
	return translate(ctx, err, nothing)
}

// refused explains why a server sent a client away.
func refused(pg *pgconn.PgError, err error) error {
	switch pg.Code {
	case "28P01", "28000":
		return &FieldError{Field: "url.password", Err: ErrUnavailable, Reason: "the server refuses this user and password; check both"}
	case "3D000":
		return &FieldError{Field: "url.database", Err: ErrUnavailable, Reason: "there is no such database; create it"}
	case "53300":
		return &FieldError{Field: "url.host", Err: ErrUnavailable, Reason: "the server has no connection left; raise its max_connections"}
	case "0A000", "25006": // a transaction that writes can't begin
		return &FieldError{Field: "url.host", Err: ErrUnavailable, Reason: "the server is a standby or read-only: " + pg.Message}
	case "42501":
		return &FieldError{Field: "url.user", Err: ErrUnavailable, Reason: "the user may not do that: " + pg.Message}
	}
	return translate(context.Background(), err, nothing)
}
