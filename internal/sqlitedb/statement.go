package sqlitedb

import (
	"context"
	"database/sql/driver"
	"slices"

	"github.com/tenantdb/tenantdb/internal/checkout"
)

// driverStmt is what the driver's statements are.
type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// statement is a statement that a borrower has prepared.
type statement struct {
	driverStmt
	conn *borrowed
	text string
}

// Close implements driver.Stmt.
func (s *statement) Close() error { return s.conn.close(s) }

// shut implements closer. The driver's rows read the memory of their statement.
func (s *statement) shut() error {
	for _, used := range slices.Clone(s.conn.open) {
		if r, ok := used.(*rows); ok && r.stmt == s {
			_ = r.shut()
		}
	}
	s.conn.remove(s)
	return s.driverStmt.Close()
}

// ExecContext implements driver.StmtExecContext.
func (s *statement) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.conn.begin(ctx, s.text); err != nil {
		return nil, err
	}
	defer s.conn.leave()
	limited := checkout.WithLimit(ctx, s.conn.limit)
	defer checkout.EndLimit(limited)
	result, err := s.driverStmt.ExecContext(limited, args)
	return result, timedOut(ctx, limited, s.conn.done(err))
}

// QueryContext implements driver.StmtQueryContext.
func (s *statement) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.conn.begin(ctx, s.text); err != nil {
		return nil, err
	}
	defer s.conn.leave()
	limited := checkout.WithLimit(ctx, s.conn.limit)
	result, err := s.driverStmt.QueryContext(limited, args)
	return s.conn.newRows(ctx, limited, s, nil, result, err)
}
