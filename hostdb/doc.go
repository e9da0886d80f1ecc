// Package hostdb is the host database of a product with one database per tenant: who is this user, where is
// that tenant's data, may the one reach the other, do they pay, what happened, what is still to be done.
//
// Open connects to embedded SQLite ("sqlite:host.db", "sqlite::memory:") or to PostgreSQL 13 or later
// ("postgres://…"), and creates or upgrades the schema. Both engines answer alike, errors included.
//
// A DB and a Tx carry the tables as fields. A call on a DB is a transaction of its own; a call on a Tx is
// part of it:
//
//	err := db.InTx(ctx, func(tx *hostdb.Tx) error {
//		if err := tx.Tenants.Insert(ctx, tenant); err != nil {
//			return err
//		}
//		return tx.Memberships.Insert(ctx, owner)
//	})
//
// Every mutation of users, tenants, memberships, subscriptions and plans writes its audit row in the same
// transaction, with the actor that WithActor put into the context.
//
// Errors wrap ErrNotFound, ErrConflict, ErrImmutable, ErrInvalid or ErrUnavailable; a *FieldError names the
// field. No error holds a password or a driver's own error value.
//
// Times are UTC with microseconds. Texts are valid UTF-8 without NUL and bounded; both engines compare them
// byte by byte, and fold only ASCII letters where e-mail addresses are compared without case.
package hostdb
