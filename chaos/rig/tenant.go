package rig

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite" // the tenants' files
)

// Tenant is a tenant and where its data are.
type Tenant struct {
	ID, Slug string
	// Pair has the tenant's database. If it is nil, the tenant has a File.
	Pair     *Pair
	Database string
	File     string
	// old are earlier databases of the tenant that have writes.
	old []place
	// Users are the ids of its members, by the subject of their tokens.
	Users map[string]string
	// Clients send requests to it. The first one's rights never change.
	Clients []Client
}

// place is where a database is.
type place struct {
	pair     *Pair
	database string
}

// MoveTo records where the tenant's data are from now on.
func (t *Tenant) MoveTo(p *Pair, database string) {
	t.old = append(t.old, place{t.Pair, t.Database})
	t.Pair, t.Database = p, database
}

// Place returns where the tenant's data are.
func (t *Tenant) Place() string {
	if t.Pair == nil {
		return "sqlite"
	}
	return t.Pair.Name
}

// schema returns the statements that make the tenant's tables.
func schema(slug string, generation int) []string {
	return []string{"CREATE TABLE me (slug text, generation int)",
		fmt.Sprintf("INSERT INTO me VALUES ('%s', %d)", slug, generation),
		"CREATE TABLE log (id text PRIMARY KEY, tenant text)", "CREATE TABLE wide (id int)",
		"INSERT INTO wide VALUES (1)"}
}

// MakeDatabase makes a tenant's database on a server, from template0, to which nobody can be connected.
func MakeDatabase(s *Server, database, slug string, generation int) error {
	if err := s.Exec("postgres", "CREATE DATABASE "+database+" TEMPLATE template0 OWNER "+
		ProductRole); err != nil {
		return err
	}
	statements := append([]string{"SET ROLE " + ProductRole}, schema(slug, generation)...)
	return s.Exec(database, append([]string{"ALTER SCHEMA public OWNER TO " + ProductRole}, statements...)...)
}

// MakeFile makes a tenant's file.
func MakeFile(path, slug string, generation int) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)")
	if err != nil {
		return err
	}
	for _, statement := range schema(slug, generation) {
		if _, err := db.Exec(statement); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	return db.Close()
}

// rows adds the ids of a tenant's writes, each with the tenant that it was made for.
func (t *Tenant) rows(ctx context.Context, into map[string]string) error {
	if t.Pair == nil {
		return fileRows(ctx, t.File, into)
	}
	for _, at := range append(t.old, place{t.Pair, t.Database}) {
		if err := databaseRows(ctx, at.pair.Primary().URL(at.database), into); err != nil {
			return err
		}
	}
	return nil
}

func databaseRows(ctx context.Context, url string, into map[string]string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT id, tenant FROM log")
	if err != nil {
		return err
	}
	var id, tenant string
	_, err = pgx.ForEachRow(rows, []any{&id, &tenant}, func() error {
		into[id] = tenant
		return nil
	})
	return err
}

func fileRows(ctx context.Context, path string, into map[string]string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=rw")
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil ||
		verdict != "ok" {
		return fmt.Errorf("%s: %s: %w", filepath.Base(path), verdict, errors.Join(err))
	}
	rows, err := db.QueryContext(ctx, "SELECT id, tenant FROM log")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, tenant string
		if err := rows.Scan(&id, &tenant); err != nil {
			return err
		}
		into[id] = tenant
	}
	return rows.Err()
}

// Migrate runs a statement in the tenant's database, as a migration does.
func (t *Tenant) Migrate(statement string) error {
	if t.Pair != nil {
		return t.Pair.Primary().Exec(t.Database, statement)
	}
	db, err := sql.Open("sqlite", "file:"+t.File+"?mode=rw&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	_, err = db.Exec(statement)
	return errors.Join(err, db.Close())
}
