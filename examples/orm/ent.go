package orm

import (
	"context"
	"errors"

	entsql "entgo.io/ent/dialect/sql"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/examples/orm/ent"
	entnote "github.com/tenantdb/tenantdb/examples/orm/ent/note"
)

// Ent implements Notes with ent. Dialect is dialect.Postgres or dialect.SQLite.
type Ent struct{ Dialect string }

// entKey is the key under which tenantdb keeps the tenant's client.
type entKey struct{}

// client returns the tenant's client. When tenantdb drops the client with the tenant's database, the client
// closes the handle that it was built on, which nobody else uses.
func (e Ent) client(ctx context.Context) (*ent.Client, error) {
	return tenantdb.Cached(ctx, entKey{}, func(*tenantdb.Scope) (*ent.Client, func(), error) {
		client := ent.NewClient(ent.Driver(entsql.OpenDB(e.Dialect, tenantdb.DB(ctx))))
		return client, func() { _ = client.Close() }, nil
	})
}

// List implements Notes.
func (e Ent) List(ctx context.Context) ([]string, error) {
	client, err := e.client(ctx)
	if err != nil {
		return nil, err
	}
	return client.Note.Query().Order(ent.Asc(entnote.FieldID)).Select(entnote.FieldBody).Strings(ctx)
}

// Add implements Notes.
func (e Ent) Add(ctx context.Context, bodies ...string) error {
	client, err := e.client(ctx)
	if err != nil {
		return err
	}
	tx, err := client.Tx(ctx)
	if err != nil {
		return err
	}
	for _, body := range bodies {
		err := check(body)
		if err == nil {
			err = tx.Note.Create().SetBody(body).Exec(ctx)
		}
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}
