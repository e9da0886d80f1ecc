// Package hostdb stores what a product with one database per tenant shares between its tenants: users,
// tenants, memberships, subscriptions and plans, the audit log, jobs and webhook events.
//
// [Open] connects to embedded SQLite ("sqlite:host.db", "sqlite::memory:") or to PostgreSQL 13 or later
// ("postgres://…"), and creates or upgrades the schema. Both engines give the same answers, errors included.
//
// A [DB] and a [Tx] embed the tables. A call on a DB is a transaction of its own. A call on a Tx is part of
// that transaction:
//
//	err := db.InTx(ctx, func(tx *hostdb.Tx) error {
//		if err := tx.Tenants.Insert(ctx, tenant); err != nil {
//			return err
//		}
//		return tx.Memberships.Insert(ctx, owner)
//	})
//
// Every change of users, tenants, memberships, subscriptions and plans writes its audit row in the same
// transaction, in the name of the actor that [WithActor] put into the context.
//
// Errors wrap [ErrNotFound], [ErrConflict], [ErrImmutable], [ErrInvalid] or [ErrUnavailable]. A
// [*FieldError] names the field. No error contains a password or a driver's own error value.
//
// Times are UTC with microseconds. Texts are valid UTF-8 without NUL and limited in length. Both engines
// compare texts byte by byte. E-mail addresses are compared without regard to the case of ASCII letters.
package hostdb
