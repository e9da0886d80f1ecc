package main

import (
	"context"

	"github.com/tenantdb/tenantdb/hostdb"
)

// update changes a row under its lock, so that what others change meanwhile isn't lost, and prints it.
func update[M any](ctx context.Context, s *session, host *hostdb.DB, columns []column[M], id string,
	table func(*hostdb.Tx) hostdb.Table[M], change func(*M)) error {
	var row *M
	err := host.InTx(ctx, func(tx *hostdb.Tx) (err error) {
		if row, err = table(tx).Lock(ctx, id); err != nil {
			return err
		}
		change(row)
		return table(tx).Update(ctx, row)
	})
	if err != nil {
		return err
	}
	return printOne(s, columns, row)
}

// set changes a field whose flag was given.
func set[T any](field *T, flag *T) {
	if flag != nil {
		*field = *flag
	}
}
