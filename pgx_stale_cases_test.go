package tenantdb_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
)

// memories are what a connection may have cached of a statement that has changed since.
var memories = map[string]memoryOf{
	"a result with one more column": {
		before:    "CREATE TABLE it (v int); INSERT INTO it VALUES (1)",
		statement: "SELECT * FROM it WHERE v = $1", first: []any{1},
		change: "ALTER TABLE it ADD note text", then: []any{1}},
	"a result of another type": {
		before:    "CREATE TABLE it (v int); INSERT INTO it VALUES (1)",
		statement: "SELECT v FROM it WHERE $1 = 'x'", first: []any{"x"},
		change: "ALTER TABLE it ALTER v TYPE text", then: []any{"x"}},
	"a renamed result": {
		before:    "CREATE TABLE it (a int, b int); INSERT INTO it VALUES (1, 2)",
		statement: "SELECT * FROM it WHERE $1 = 'x'", first: []any{"x"},
		change: "ALTER TABLE it RENAME a TO c; ALTER TABLE it RENAME b TO a", then: []any{"x"}},
	"a table made anew": {
		before:    "CREATE TABLE it (v int); INSERT INTO it VALUES (1)",
		statement: "SELECT * FROM it WHERE $1 = 'x'", first: []any{"x"},
		change: "DROP TABLE it; CREATE TABLE it (v text, w int); INSERT INTO it VALUES ('1', 2)",
		then:   []any{"x"}},
	"an enum made anew": {
		before:    "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE it (v kind)",
		statement: "INSERT INTO it VALUES ($1) RETURNING v", first: []any{"a"},
		change: retyped("kind", "TYPE kind AS ENUM ('a', 'c')"), then: []any{"c"}},
	"a domain made anew": {
		before:    "CREATE DOMAIN kind AS text CHECK (VALUE <> 'b'); CREATE TABLE it (v kind)",
		statement: "INSERT INTO it VALUES ($1::kind) RETURNING v", first: []any{"a"},
		change: retyped("text", "DOMAIN kind AS text CHECK (VALUE <> 'c')"), then: []any{"b"}},
	"a composite made anew": {
		before:    "CREATE TYPE kind AS (n int); CREATE TABLE it (v kind)",
		statement: "INSERT INTO it VALUES ($1) RETURNING v::text", first: []any{"(1)"},
		change: "DROP TABLE it; DROP TYPE kind; CREATE TYPE kind AS (n int, m int); CREATE TABLE it (v kind)",
		then:   []any{"(1,2)"}},
	"a parameter that was narrower": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v::text",
		first:  []any{1},
		change: "ALTER TABLE it ALTER v TYPE bigint", then: []any{1 << 40}, encoded: true},
	"a parameter that was a number": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v::text",
		first:  []any{1},
		change: "ALTER TABLE it ALTER v TYPE text", then: []any{"one"}},
	"an operator's parameter": {
		before:    "CREATE TABLE it (v int, w text); INSERT INTO it VALUES (1, '1')",
		statement: "SELECT w FROM it WHERE v = $1", first: []any{1},
		change: "ALTER TABLE it ALTER v TYPE text", then: []any{"1"}},
	"a statement that the server has forgotten": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v",
		first:  []any{1},
		change: "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$", inside: true, then: []any{2}},
	"a statement that the server has and pgx hasn't": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v AS kept",
		first:  nil,
		change: "DO $$ BEGIN EXECUTE 'PREPARE NAME AS SELECT 1'; END $$", inside: true, then: []any{2}},
}

// memoryOf is what a connection has cached once a statement was sent with its first arguments, and what
// changes then.
type memoryOf struct {
	before    string // makes table it
	statement string
	first     []any
	change    string
	inside    bool // the connection makes the change itself, by statements without a command tag
	then      []any
	encoded   bool // pgx rejects unsuitable arguments before it asks the server
}

// statementName is the name that pgx gives a cached statement.
func statementName(text string) string {
	digest := sha256.Sum256([]byte(text))
	return "stmtcache_" + hex.EncodeToString(digest[:24])
}

// ways are the ways to send a statement outside a transaction. Each returns a function that sends it any
// number of times, and one that ends it.
var ways = map[string]func(ctx context.Context, text string) (send func(args ...any) error, end func() error){
	"DB.Exec": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			_, err := tenantdb.DB(ctx).ExecContext(ctx, text, args...)
			return err
		}, nil
	},
	"DB.Query": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			rows, err := tenantdb.DB(ctx).QueryContext(ctx, text, args...)
			if err != nil {
				return err
			}
			return drained(rows)
		}, nil
	},
	"DB.Prepare": func(ctx context.Context, text string) (func(...any) error, func() error) {
		stmt, err := tenantdb.DB(ctx).PrepareContext(ctx, text)
		return func(args ...any) error {
			if err != nil {
				return err
			}
			rows, err := stmt.QueryContext(ctx, args...)
			if err != nil {
				return err
			}
			return drained(rows)
		}, func() error { return stmt.Close() }
	},
	"DB.Conn": func(ctx context.Context, text string) (func(...any) error, func() error) {
		conn, err := tenantdb.DB(ctx).Conn(ctx)
		return func(args ...any) error {
			if err != nil {
				return err
			}
			rows, err := conn.QueryContext(ctx, text, args...)
			if err != nil {
				return err
			}
			return drained(rows)
		}, func() error { return conn.Close() }
	},
	"DB.Conn.Prepare": func(ctx context.Context, text string) (func(...any) error, func() error) {
		var stmt *sql.Stmt
		conn, err := tenantdb.DB(ctx).Conn(ctx)
		if err == nil {
			stmt, err = conn.PrepareContext(ctx, text)
		}
		return func(args ...any) error {
			if err != nil {
				return err
			}
			_, err := stmt.ExecContext(ctx, args...)
			return err
		}, func() error { return conn.Close() }
	},
	"PGX.Exec": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error { _, err := tenantdb.PG(ctx).Exec(ctx, text, args...); return err },
			nil
	},
	"PGX.Query": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			rows, err := tenantdb.PG(ctx).Query(ctx, text, args...)
			if err != nil {
				return err
			}
			_, err = pgx.CollectRows(rows, pgx.RowToMap)
			return err
		}, nil
	},
	"PGX.QueryRow": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			return tenantdb.PG(ctx).QueryRow(ctx, text, args...).Scan(anything{})
		}, nil
	},
	"PGX.SendBatch": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			b := new(pgx.Batch)
			b.Queue(text, args...)
			b.Queue(text, args...)
			return tenantdb.PG(ctx).SendBatch(ctx, b).Close()
		}, nil
	},
	"PGX.SendBatch, one by one": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			b := new(pgx.Batch)
			b.Queue(text, args...)
			b.Queue(text, args...)
			results := tenantdb.PG(ctx).SendBatch(ctx, b)
			_, err := results.Exec()
			if err == nil {
				var rows pgx.Rows
				if rows, err = results.Query(); err == nil {
					_, err = pgx.CollectRows(rows, pgx.RowToMap)
				}
			}
			if closed := results.Close(); err == nil {
				err = closed
			}
			return err
		}, nil
	},
}

// anything accepts every row.
type anything struct{}

// retyped replaces a type by a new one of that name, as migrations do where ALTER TYPE can't.
func retyped(old, new string) string {
	return "ALTER TABLE it ALTER v TYPE text; DROP TYPE kind; CREATE " + new +
		"; ALTER TABLE it ALTER v TYPE kind USING v::" + old
}

func (anything) ScanRow(pgx.Rows) error { return nil }
