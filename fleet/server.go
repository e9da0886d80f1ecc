package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
)

// server is where tenants' databases stand. Names come from the tenant's generated id, never from input.
type server interface {
	// url returns the db_url of a tenant's database.
	url(tenantID string) string
	// create creates the database; one that exists already is not an error.
	create(ctx context.Context, tenantID string) error
	// drop removes the database; one that is gone already is not an error.
	drop(ctx context.Context, tenantID string) error
}

// sqliteServer keeps each database in a file of its own.
type sqliteServer struct{ pool *tenantdb.Pool }

func (s *sqliteServer) url(tenantID string) string { return "sqlite:" + tenantID + ".db" }

func (s *sqliteServer) create(_ context.Context, tenantID string) error {
	root, err := s.pool.SQLiteRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	file, err := root.OpenFile(tenantID+".db", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

func (s *sqliteServer) drop(_ context.Context, tenantID string) error {
	root, err := s.pool.SQLiteRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, suffix := range []string{".db", ".db-wal", ".db-shm"} { // the database first: without it nobody makes the others anew
		if err := root.Remove(tenantID + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// postgresServer keeps each database on one PostgreSQL server.
type postgresServer struct{ base *url.URL }

func (s *postgresServer) url(tenantID string) string {
	u := *s.base
	u.Path = "/" + databaseName(tenantID)
	return u.String()
}

// databaseName is the generated name of a tenant's database.
func databaseName(tenantID string) string { return "tenant_" + tenantID }

func (s *postgresServer) create(ctx context.Context, tenantID string) error {
	return s.admin(ctx, func(conn *pgx.Conn) error {
		name := databaseName(tenantID)
		var exists bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists); err != nil || exists {
			return err
		}
		// template0: no session is ever connected to it, so that databases can be created side by side.
		_, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0")
		return err
	})
}

func (s *postgresServer) drop(ctx context.Context, tenantID string) error {
	return s.admin(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{databaseName(tenantID)}.Sanitize()+" WITH (FORCE)")
		return err
	})
}

// admin runs do on a connection to the server's own database.
func (s *postgresServer) admin(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.base.String())
	if err != nil {
		return fmt.Errorf("the server of Config.Server can't be reached: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}
