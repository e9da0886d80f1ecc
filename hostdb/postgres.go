package hostdb

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

const oldestPostgres = 130000

// openPostgres upgrades the schema and opens the pools.
func (db *DB) openPostgres(ctx context.Context) error {
	server := db.origin.server
	if server.ConnectTimeout == 0 {
		server.ConnectTimeout = db.config.ConnectTimeout
	}
	if err := db.migratePostgres(ctx, server.Copy()); err != nil {
		return connectError(ctx, err)
	}
	if db.pooled {
		server.DefaultQueryExecMode = db.origin.address.Unnamed()
	} else if db.config.NoNotify {
		// PgBouncer refuses clients with a parameter that it doesn't know.
		server.RuntimeParams["hostdb.notify"] = "off"
	}
	dialer := pghosts.NewDialer(db.hosts, server)
	pool := db.bounded(sql.OpenDB(dialer), cmp.Or(db.config.MaxConns, 10))
	db.write, db.read = pool, pool
	db.lookups = db.bounded(sql.OpenDB(dialer), db.config.LookupConns)
	db.onClosing = append(db.onClosing, func() error {
		dialer.Stop()
		db.hosts.Wait()
		return nil
	})
	return nil
}

// bounded limits a pool, and has Close close it.
func (db *DB) bounded(pool *sql.DB, limit int) *sql.DB {
	pool.SetMaxOpenConns(limit)
	pool.SetMaxIdleConns(limit)
	db.onClosing = append(db.onClosing, pool.Close)
	return pool
}

// migratePostgres upgrades the schema, and detects a pooler in front of the server.
func (db *DB) migratePostgres(ctx context.Context, server *pgx.ConnConfig) error {
	server.DefaultQueryExecMode = db.origin.address.Unnamed()
	server.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		results, err := conn.Exec(ctx, "SELECT current_setting('server_version_num')").ReadAll()
		if err != nil {
			return err
		}
		if version, err := strconv.Atoi(string(results[0].Rows[0][0])); err != nil ||
			version < oldestPostgres {
			return invalid("url", "the server is older than PostgreSQL 13; upgrade it")
		}
		db.pooled, err = pghosts.Pooled(ctx, conn)
		return err
	}
	dialer := pghosts.NewDialer(db.hosts, server)
	defer dialer.Stop()
	return db.migrate(ctx, dialer)
}

// connectError names the part of the URL that a failure to connect concerns.
func connectError(ctx context.Context, err error) error {
	var own *FieldError
	var pg *pgconn.PgError
	var dns *net.DNSError
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(context.Cause(ctx), context.Canceled):
		return translate(ctx, err, asReported)
	case errors.As(err, &pg):
		return refused(pg, err)
	case errors.As(err, &dns):
		return unavailable("url.host",
			"the host's name is unknown; check it, and escape an @ in the password as %40")
	case errors.As(err, &connect), errors.Is(err, driver.ErrBadConn), ctx.Err() != nil,
		errors.Is(err, context.DeadlineExceeded):
		return unavailable("url.host",
			"no PostgreSQL server answers; check host, port, sslmode, and that the server is running")
	}
	return translate(ctx, err, asReported)
}

// refusals are the reasons for which a server turns a client away, by SQLSTATE. A reason that ends in a
// colon is followed by the server's message.
var refusals = map[string]struct{ field, reason string }{
	sqlstate.CannotConnectNow: {
		"url.host", "the server is starting up, shutting down or recovering; try again",
	},
	sqlstate.InvalidPassword:      {"url.password", "the server refuses this user and password; check both"},
	sqlstate.InvalidAuthorization: {"url.password", "the server refuses this user and password; check both"},
	sqlstate.InvalidCatalogName:   {"url.database", "there is no such database; create it"},
	sqlstate.TooManyConnections:   {"url.host", "the server has no free connection; raise max_connections"},
	// FeatureNotSupported: a transaction that writes can't begin.
	sqlstate.FeatureNotSupported:   {"url.host", "the server is a standby or read-only:"},
	sqlstate.ReadOnlyTransaction:   {"url.host", "the server is a standby or read-only:"},
	sqlstate.InsufficientPrivilege: {"url.user", "the user may not do that:"},
}

// refused explains why a server turned a client away.
func refused(pg *pgconn.PgError, err error) error {
	if pg.Code == sqlstate.ProtocolViolation {
		return pooler(pg, err)
	}
	why, known := refusals[pg.Code]
	if !known {
		return translate(context.Background(), err, asReported)
	}
	if strings.HasSuffix(why.reason, ":") {
		why.reason += " " + pg.Message
	}
	return unavailable(why.field, why.reason)
}

// pooler explains why PgBouncer turned a client away. Its message is the only indication.
func pooler(pg *pgconn.PgError, err error) error {
	if strings.Contains(pg.Message, "statement pooling mode") {
		return invalid("url.host",
			"the pooler there works in statement mode, in which there are no transactions; set its "+
				"pool_mode to transaction or session")
	}
	if before, name, found := strings.Cut(pg.Message, ": "); found &&
		strings.HasPrefix(before, "unsupported startup parameter") {
		return invalid("url."+name,
			"the pooler refuses this parameter in a URL, and would pass over it if told to ignore it; set "+
				"it in the server, ALTER ROLE … SET "+name+", or name the server itself")
	}
	return translate(context.Background(), err, asReported)
}
