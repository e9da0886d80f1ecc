package sqlitedb

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"slices"

	"github.com/tenantdb/tenantdb/internal/checkout"
)

// driverRows is what the driver's rows are.
type driverRows interface {
	driver.Rows
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// rows are rows of a borrowed connection. They pass on the driver's methods that don't look at the rows.
type rows struct {
	driverRows
	conn     *borrowed
	stmt     *statement // which the borrower has prepared; nil if none
	compiled *compiled  // to be put back with the rows; nil if there is a stmt
	// The query's context, and the one with its limit.
	ctx, limited context.Context
}

// newRows wraps the result of a query. The caller has entered.
func (c *borrowed) newRows(ctx, limited context.Context, stmt *statement, used *compiled, result driver.Rows,
	err error) (driver.Rows, error) {
	if err != nil {
		err = timedOut(ctx, limited, c.conn.failed(err))
		checkout.EndLimit(limited)
		return nil, err
	}
	r := &rows{result.(driverRows), c, stmt, used, ctx, limited}
	c.open = append(c.open, r)
	return r, nil
}

// errRowsClosed is the error of rows whose statement was closed, and they with it.
var errRowsClosed = errors.New("tenantdb: the rows are closed")

// enter is called before the driver looks at the rows. If it returns nil, [borrowed.leave] follows.
func (r *rows) enter() error {
	if err := r.conn.enter(); err != nil {
		return err
	}
	if !slices.Contains(r.conn.open, closer(r)) {
		r.conn.leave()
		return errRowsClosed
	}
	return nil
}

// Close implements driver.Rows.
func (r *rows) Close() error { return r.conn.close(r) }

// shut implements closer.
func (r *rows) shut() error {
	checkout.EndLimit(r.limited)
	r.conn.remove(r)
	err := r.driverRows.Close()
	if r.compiled != nil {
		err = r.conn.conn.putBack(r.compiled, err)
	}
	return err
}

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	if expired(r.ctx, r.limited) {
		return errQueryTimeout
	}
	err := r.driverRows.Next(dest)
	if err != io.EOF {
		return timedOut(r.ctx, r.limited, r.conn.conn.failed(err))
	}
	if lost := r.conn.done(nil); lost != nil { // the rows of RETURNING have been written
		return lost
	}
	return err
}

// ColumnTypeLength implements driver.RowsColumnTypeLength.
func (r *rows) ColumnTypeLength(index int) (length int64, ok bool) {
	if r.enter() != nil {
		return 0, false
	}
	defer r.conn.leave()
	return r.driverRows.ColumnTypeLength(index)
}

// ColumnTypeScanType implements driver.RowsColumnTypeScanType.
func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	if r.enter() != nil {
		return reflect.TypeFor[string]()
	}
	defer r.conn.leave()
	return r.driverRows.ColumnTypeScanType(index)
}
