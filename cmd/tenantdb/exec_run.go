package main

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// maxResult bounds the rows of one tenant, in bytes.
const maxResult = 16 << 20

// executor runs one statement in tenants' databases.
type executor struct {
	host      *hostdb.DB
	pool      *tenantdb.Pool
	actor     string
	statement string
	write     bool
	rows      int
}

// execResult is the result of a statement in one tenant's database.
type execResult struct {
	tenant    *hostdb.TenantCatalog
	columns   []string
	rows      [][]any
	bytes     int
	truncated bool  // rows were left out
	affected  int64 // rows written
	took      time.Duration
	err       error
}

// run runs the statement in one tenant's database.
func (e *executor) run(ctx context.Context, tenant *hostdb.TenantCatalog) *execResult {
	began := time.Now()
	r := &execResult{tenant: tenant}
	r.err = e.execute(ctx, r)
	r.took = time.Since(began)
	return r
}

func (e *executor) execute(ctx context.Context, r *execResult) error {
	lease, err := e.pool.Lease(r.tenant)
	if err != nil {
		return err
	}
	defer lease.Release()
	if e.write { // recorded first, so that no write goes unrecorded
		event := &hostdb.HostAuditLog{ActorUserID: e.actor, EventType: "tenant.exec", TargetID: r.tenant.ID}
		if err := e.host.AuditLogs.Insert(ctx, event); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	switch pg := lease.PG(); {
	case pg != nil && e.write:
		return e.postgres(ctx, pg, r)
	case pg != nil:
		tx, err := pg.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		return e.postgres(ctx, tx, r)
	case e.write:
		return e.writeSQLite(ctx, lease.DB(), r)
	}
	// ReadDB can't write or reach another file, and settings that the statement changes end with its
	// connection.
	return e.scan(ctx, lease.ReadDB(), r)
}

// postgresQuerier is a transaction or a connection.
type postgresQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// postgres runs the statement with the extended protocol. That accepts only one statement, so no second one
// can end the read-only transaction. Values are in PostgreSQL's text format.
func (e *executor) postgres(ctx context.Context, on postgresQuerier, r *execResult) error {
	rows, err := on.Query(ctx, e.statement, pgx.QueryExecModeExec, pgx.QueryResultFormats{pgx.TextFormatCode})
	if err != nil {
		return err
	}
	defer rows.Close()
	fields := rows.FieldDescriptions()
	for _, field := range fields {
		r.columns = append(r.columns, field.Name)
	}
	for rows.Next() {
		raw, values := rows.RawValues(), make([]any, len(fields))
		for i := range raw {
			values[i] = postgresValue(fields[i].DataTypeOID, raw[i])
			r.bytes += len(raw[i])
		}
		if !r.add(values, e.rows) {
			break
		}
	}
	rows.Close()
	r.affected = rows.CommandTag().RowsAffected()
	return rows.Err()
}

// postgresValue converts a value for JSON. Numbers, bools and JSON keep their types; others are text.
func postgresValue(oid uint32, raw []byte) any {
	if raw == nil {
		return nil
	}
	switch oid {
	case pgtype.BoolOID:
		return string(raw) == "t"
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.Float4OID, pgtype.Float8OID,
		pgtype.NumericOID, pgtype.JSONOID, pgtype.JSONBOID:
		if json.Valid(raw) { // NaN isn't
			return json.RawMessage(append([]byte(nil), raw...))
		}
	}
	return string(raw)
}

// add adds a row. It reports false if there are enough.
func (r *execResult) add(values []any, limit int) bool {
	if len(r.rows) >= limit || r.bytes > maxResult {
		r.truncated = true
		return false
	}
	r.rows = append(r.rows, values)
	return true
}

// writeSQLite runs the statement in a transaction.
func (e *executor) writeSQLite(ctx context.Context, db *sql.DB, r *execResult) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var before, after int64
	if err := tx.QueryRowContext(ctx, "SELECT total_changes()").Scan(&before); err != nil {
		return err
	}
	if err := e.scan(ctx, tx, r); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, "SELECT total_changes()").Scan(&after); err != nil {
		return err
	}
	r.affected = after - before
	return tx.Commit()
}

// sqliteQuerier is a transaction or a handle.
type sqliteQuerier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// scan runs the statement and adds its rows.
func (e *executor) scan(ctx context.Context, on sqliteQuerier, r *execResult) error {
	rows, err := on.QueryContext(ctx, e.statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	if r.columns, err = rows.Columns(); err != nil {
		return err
	}
	for rows.Next() {
		values, targets := make([]any, len(r.columns)), make([]any, len(r.columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		for i := range values {
			values[i] = r.sqliteValue(values[i])
		}
		if !r.add(values, e.rows) {
			break
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// sqliteValue converts a value for JSON and counts its size. A blob becomes a literal of SQL.
func (r *execResult) sqliteValue(value any) any {
	switch v := value.(type) {
	case []byte:
		r.bytes += 2 * len(v)
		return "x'" + hex.EncodeToString(v) + "'"
	case string:
		r.bytes += len(v)
	default:
		r.bytes += 8
	}
	return value
}
