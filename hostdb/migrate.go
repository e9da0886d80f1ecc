package hostdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

const versionTable = "host_schema_version"

// generation separates the migrations of two major versions of the library. Within a generation migrations
// only add (tables, columns with a default, triggers, indexes), so that a process of an older minor version
// continues, and starts, on the newer schema. A migration that changes or removes what an older library uses
// begins the next generation: 10001 is the first that version 1 can't work with.
const generation = 10_000

// migrate brings the schema up to date in ONE transaction that holds a lock: an advisory lock in PostgreSQL,
// the write lock in SQLite. Processes that open at the same time take turns, and one that dies leaves
// nothing half done.
func (db *DB) migrate(ctx context.Context, connector driver.Connector) error {
	e := db.engine
	single := &singleConnector{inner: connector, begin: e.beginExclusive()}
	pool := sql.OpenDB(single)
	pool.SetMaxOpenConns(1)
	defer pool.Close()
	if err := upgrade(ctx, e, pool, db.config.NoUpgrade); err != nil {
		return err
	}
	_, err := pool.ExecContext(ctx, "COMMIT")
	return err
}

// beginExclusive returns the statements that begin the transaction in which nobody else migrates.
func (e engine) beginExclusive() []string {
	if e == postgres {
		// At a higher isolation level the snapshot would be taken before the lock is acquired, and wouldn't
		// show what the previous holder has created.
		return []string{"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
			"SELECT pg_advisory_xact_lock(7307206461662301)"} // an arbitrary number
	}
	return []string{"BEGIN IMMEDIATE"}
}

// upgrade runs the pending migrations, or refuses to if noUpgrade is set. It refuses a schema that isn't
// this library's or belongs to a newer generation.
func upgrade(ctx context.Context, e engine, pool *sql.DB, noUpgrade bool) error {
	files, err := fs.Sub(migrations, "migrations/"+string(e))
	if err != nil {
		return err
	}
	dialect := goose.DialectPostgres
	if e == sqlite {
		dialect = goose.DialectSQLite3
	}
	provider, err := goose.NewProvider(dialect, pool, files, goose.WithTableName(versionTable),
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	if err := refuseUnusable(ctx, e, pool); err != nil {
		return err
	}
	current, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current/generation > newest/generation {
		return invalid("url", "the schema was made by a newer major version of this library; upgrade the "+
			"library")
	}
	if current >= newest {
		return nil
	}
	if noUpgrade {
		return invalid("url", fmt.Sprintf("the schema has version %d, and this library's is %d; `tenantdb "+
			"init`, or any Open without NoUpgrade, "+
			"creates or upgrades it", current, newest))
	}
	_, err = provider.Up(ctx)
	return err
}

// SchemaVersion returns the version of the host database's own schema. Errors: ErrUnavailable.
func (db *DB) SchemaVersion(ctx context.Context) (version int64, err error) {
	err = session{db: db}.queryRow(ctx, "SELECT max(version_id) FROM "+versionTable, nil, &version)
	return version, err
}

// refuseUnusable refuses core_ tables without our version table, which belong to another program. In
// PostgreSQL it also refuses a search path without an existing schema, or with one in which the tables are
// missing and the role may not create them.
func refuseUnusable(ctx context.Context, e engine, on dbtx) error {
	text := `SELECT current_schema() IS NOT NULL, coalesce(has_schema_privilege(current_schema(), 'CREATE'),
		false),
		count(*) FILTER (WHERE c.relname = 'host_schema_version'), count(*) FILTER (WHERE c.relname <>
		'host_schema_version')
		FROM pg_class c WHERE c.relnamespace = quote_ident(current_schema())::regnamespace
		AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		AND (c.relname LIKE 'core\_%' OR c.relname IN ('sys_audit_logs', 'sys_jobs', 'host_schema_version'))`
	if e == sqlite {
		text = `SELECT true, true, count(*) FILTER (WHERE name = 'host_schema_version'), count(*) FILTER
			(WHERE name <> 'host_schema_version')
			FROM sqlite_schema WHERE type IN ('table', 'view')
			AND (name LIKE 'core\_%' ESCAPE '\' OR name IN ('sys_audit_logs', 'sys_jobs',
			'host_schema_version'))`
	}
	var found, mayCreate bool
	var versions, others int
	err := eachRow(ctx, on, text, nil,
		func(row scanner) error { return row.Scan(&found, &mayCreate, &versions, &others) })
	switch {
	case err != nil:
		return err
	case !found:
		return unavailable("url.search_path",
			"it names no schema that exists and that the user may use; CREATE SCHEMA, or GRANT USAGE "+
				"ON SCHEMA")
	case versions == 0 && others > 0:
		return invalid("url", "the database has core_ or sys_ tables that this library didn't make; use "+
			"another database or schema")
	case versions == 0 && !mayCreate:
		return unavailable("url.user",
			"the tables aren't there, and the user may not make them; GRANT CREATE "+
				"ON SCHEMA, or have `tenantdb init` run by a user who may")
	}
	return nil
}

// singleConnector opens one connection and begins a transaction on it. Further transactions are savepoints.
type singleConnector struct {
	inner driver.Connector
	begin []string
	used  atomic.Bool
}

// Connect implements driver.Connector.
func (s *singleConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if s.used.Swap(true) {
		return nil, errors.New("the migration's connection was lost")
	}
	opened, err := s.inner.Connect(ctx)
	if err != nil {
		return nil, err
	}
	conn := &nestedConn{opened.(fullConn)}
	for _, statement := range s.begin {
		if _, err := conn.ExecContext(ctx, statement, nil); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// Driver implements driver.Connector.
func (s *singleConnector) Driver() driver.Driver {
	return s.inner.Driver()
}

// fullConn has the methods that both drivers' connections share.
type fullConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

// nestedConn is a connection whose transactions are savepoints of the open one.
type nestedConn struct{ fullConn }

// BeginTx implements driver.ConnBeginTx.
func (c *nestedConn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	_, err := c.ExecContext(ctx, "SAVEPOINT migration", nil)
	return savepoint{c}, err
}

// savepoint implements driver.Tx.
type savepoint struct{ conn *nestedConn }

// Commit implements driver.Tx.
func (s savepoint) Commit() error {
	_, err := s.conn.ExecContext(context.Background(), "RELEASE SAVEPOINT migration", nil)
	return err
}

// Rollback implements driver.Tx.
func (s savepoint) Rollback() error {
	_, err := s.conn.ExecContext(context.Background(), "ROLLBACK TO SAVEPOINT migration", nil)
	return err
}
