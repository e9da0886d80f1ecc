package main

import (
	"context"

	"github.com/tenantdb/tenantdb/hostdb"
)

// change changes the row with this id and prints it.
func change[M any](ctx context.Context, s *session, columns []column[M], table hostdb.Table[M], id string,
	apply func(*M)) error {
	row, err := table.Change(ctx, id, func(row *M) error {
		apply(row)
		return nil
	})
	if err != nil {
		return err
	}
	return printOne(s, columns, row)
}

// set changes a field if its flag was given.
func set[T any](field *T, flag *T) {
	if flag != nil {
		*field = *flag
	}
}
