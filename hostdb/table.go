package hostdb

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// Table has the methods that all tables of the host database share. Their errors are ErrInvalid and
// ErrConflict in a *FieldError, ErrNotFound, ErrUnavailable, and context.Canceled if the caller's context
// was cancelled.
type Table[M any] struct {
	s session
	r *relation[M]
}

// Insert stores a new row. Empty fields with a default are filled in, in the model too: ID ([NewID]),
// CreatedAt (now), and the defaults documented with the model's fields. Times in the model become UTC with
// microseconds, as they will be read. Errors: ErrInvalid; ErrConflict.
func (t Table[M]) Insert(ctx context.Context, m *M) error {
	if m == nil {
		return invalid(t.r.table, "is nil")
	}
	args, err := t.newRow(m)
	if err != nil {
		return err
	}
	if log, ok := any(m).(*HostAuditLog); ok {
		return t.s.storeAudit(ctx, log, args, nil)
	}
	// PostgreSQL names the field of a conflict itself, so that no transaction is needed.
	if t.r.subject == "" && t.s.db.engine == postgres {
		_, err := t.s.exec(ctx, t.r.insertText(), args, asReported)
		return withReason(err, "refers to no row")
	}
	return t.s.write(ctx, func(tx *Tx) error {
		if err := t.in(tx).store(ctx, t.r.insertText(), args, m, true); err != nil {
			return err
		}
		return audit(ctx, tx, t.r, "created", nil, m)
	})
}

// newRow fills in the defaults of a new row's model, and returns its columns as parameters.
func (t Table[M]) newRow(m *M) ([]any, error) {
	setDefault(t.r.columns[0].at(m).(*string), NewID())
	for _, c := range t.r.columns {
		if at, ok := c.at(m).(*time.Time); ok && at.IsZero() { // only CreatedAt isn't nullable
			*at = t.s.db.now()
		}
	}
	t.r.defaults(m)
	return t.r.values(t.s.db.engine, m)
}

// in returns the same table within a transaction.
func (t Table[M]) in(tx *Tx) Table[M] {
	return Table[M]{session{db: t.s.db, tx: tx}, t.r}
}

// store runs an INSERT (fresh) or an UPDATE of a model. After a conflict SQLite's transaction can still be
// queried for the field.
func (t Table[M]) store(ctx context.Context, statement string, args []any, m *M, fresh bool) error {
	_, err := t.s.exec(ctx, statement, args, func(reported string) string {
		if reported == "" {
			return t.danglingColumn(ctx, m)
		}
		return t.conflictColumn(ctx, args, fresh, reported)
	})
	return withReason(err, "refers to no row")
}

// conflictColumn reports what PostgreSQL would: the id first, then unique keys in order.
func (t Table[M]) conflictColumn(ctx context.Context, args []any, fresh bool, reported string) string {
	var found string
	id := t.r.columns[0].name
	if fresh && t.s.queryRow(ctx, "SELECT id FROM "+t.r.table+" WHERE id = $1", args[:1], &found) == nil {
		return id
	}
	for _, key := range t.r.unique {
		text, values := "SELECT id FROM "+t.r.table+" WHERE id <> $1", args[:1:1]
		for name := range strings.SplitSeq(key, ",") {
			i := slices.IndexFunc(t.r.columns, func(c column[M]) bool { return c.name == name })
			values = append(values, args[i])
			text += fmt.Sprintf(" AND %s = $%d", name, len(values))
		}
		if t.s.queryRow(ctx, text, values, &found) == nil {
			return key
		}
	}
	return reported
}

// danglingColumn returns the foreign key of a model that refers to no row.
func (t Table[M]) danglingColumn(ctx context.Context, m *M) string {
	for _, p := range t.r.references {
		for i := range t.r.columns {
			if t.r.columns[i].name != p.column {
				continue
			}
			var id string
			key := *t.r.columns[i].at(m).(*string)
			if t.s.queryRow(ctx, "SELECT id FROM "+p.table+" WHERE id = $1", []any{key}, &id) != nil {
				return p.column
			}
		}
	}
	return t.r.foreignKey
}

// Get returns the row with this id. Errors: ErrNotFound; ErrInvalid.
func (t Table[M]) Get(ctx context.Context, id string) (*M, error) {
	if err := t.r.checkID(id); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE "+t.r.columns[0].name+" = $1", id)
}

// Lock returns the row with this id and prevents others from changing it until the transaction ends. It
// requires a Tx. Errors: ErrNotFound; ErrInvalid.
func (t Table[M]) Lock(ctx context.Context, id string) (*M, error) {
	if err := t.r.checkID(id); err != nil {
		return nil, err
	}
	return t.lock(ctx, t.r.columns[0].name, id)
}

// lock is Lock by any unique column.
func (t Table[M]) lock(ctx context.Context, column, value string) (*M, error) {
	if t.s.tx == nil {
		return nil, invalid("tx", "locking a row requires a transaction")
	}
	return t.one(ctx, "WHERE "+column+" = $1"+t.s.db.engine.forUpdate(), value)
}

// one returns the first row that a condition selects.
func (t Table[M]) one(ctx context.Context, condition string, args ...any) (*M, error) {
	found, err := t.many(ctx, condition, args...)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, ErrNotFound
	}
	return found[0], nil
}

// many returns the rows that a condition selects.
func (t Table[M]) many(ctx context.Context, condition string, args ...any) ([]*M, error) {
	var found []*M
	err := t.s.query(ctx, t.r.selectFrom()+" "+condition, args, func(row scanner) error {
		m, err := t.r.read(row)
		found = append(found, m)
		return err
	})
	if logs, ok := any(found).([]*HostAuditLog); ok && err == nil {
		err = t.s.addPersonalParts(ctx, logs)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Update writes every column of the row with the model's ID. Changes that others made since the model was
// read are lost, so [Table.Change] is usually the better choice. If nothing differs from what is stored,
// nothing is written. A row that lacks a column, such as the user of [DB.Access], is refused. Errors:
// ErrNotFound; ErrInvalid; ErrConflict; ErrImmutable.
func (t Table[M]) Update(ctx context.Context, m *M) error {
	if m == nil {
		return invalid(t.r.table, "is nil")
	}
	if t.r.refuseWrite != nil {
		return t.r.refuseWrite(m)
	}
	args, err := t.r.values(t.s.db.engine, m)
	if err != nil {
		return err
	}
	return t.s.write(ctx, func(tx *Tx) error {
		before, err := t.in(tx).Lock(ctx, t.r.id(m))
		if err != nil {
			return err
		}
		return t.in(tx).updateLocked(ctx, before, m, args)
	})
}

// updateLocked overwrites a locked row. args are the columns of m.
func (t Table[M]) updateLocked(ctx context.Context, before, m *M, args []any) error {
	if !t.r.differ(before, m) {
		return nil
	}
	if err := t.store(ctx, t.r.updateText(), args, m, false); err != nil {
		return err
	}
	return audit(ctx, t.s.tx, t.r, "updated", before, m)
}

// Change locks the row with this id, calls change on it, and writes it as Update does, in one transaction.
// It returns the row as written. An error of change is returned and rolls everything back. change may be
// called more than once. Errors: as for [Table.Update].
func (t Table[M]) Change(ctx context.Context, id string, change func(*M) error) (*M, error) {
	if err := t.r.checkID(id); err != nil {
		return nil, err
	}
	if t.r.refuseWrite != nil {
		return nil, t.r.refuseWrite(nil)
	}
	var m M
	err := t.s.write(ctx, func(tx *Tx) error {
		in := t.in(tx)
		before, err := in.Lock(ctx, id)
		if err != nil {
			return err
		}
		m = *before
		if err := change(&m); err != nil {
			return err
		}
		args, err := t.r.values(t.s.db.engine, &m)
		if err != nil {
			return err
		}
		if t.r.id(&m) != id {
			return invalid(t.r.columns[0].name, "can't be changed")
		}
		return in.updateLocked(ctx, before, &m, args)
	})
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// Delete removes the row with this id. Errors: ErrNotFound; ErrConflict if other rows refer to it, some of
// which it names; ErrImmutable.
func (t Table[M]) Delete(ctx context.Context, id string) error {
	if err := t.r.checkID(id); err != nil {
		return err
	}
	if t.r.refuseWrite != nil {
		return t.r.refuseWrite(nil)
	}
	return t.s.write(ctx, func(tx *Tx) error {
		in := t.in(tx)
		before, err := in.Lock(ctx, id)
		if err != nil {
			return err
		}
		if err := in.referred(ctx, id); err != nil {
			return err
		}
		_, err = in.s.exec(ctx, "DELETE FROM "+t.r.table+" WHERE "+t.r.columns[0].name+" = $1", []any{id},
			func(string) string { return t.r.foreignKey })
		if err != nil {
			return withReason(err, "is still referred to by a row that was written meanwhile")
		}
		return audit(ctx, tx, t.r, "deleted", before, nil)
	})
}

// shownReferences is how many rows of a table a conflict names.
const shownReferences = 3

// referred returns a conflict that names the tables that refer to the row with this id, with some of their
// rows. It returns nil if there are none.
func (t Table[M]) referred(ctx context.Context, id string) error {
	var found []string
	for _, holder := range t.r.referrers {
		var ids []string
		text := fmt.Sprintf("SELECT id FROM %s WHERE %s = $1 ORDER BY id LIMIT %d", holder.table,
			holder.column, shownReferences+1)
		err := t.s.query(ctx, text, []any{id}, appendText(&ids))
		if err != nil {
			return err
		}
		if len(ids) > shownReferences {
			ids[shownReferences] = "…"
		}
		if len(ids) > 0 {
			found = append(found, holder.table+" ("+strings.Join(ids, ", ")+")")
		}
	}
	if len(found) == 0 {
		return nil
	}
	return conflict(t.r.foreignKey, "is still referred to by "+strings.Join(found, " and "))
}

// List returns the rows that pass every filter, ordered by id: at most Limit, and at most 1,000. For the
// next page pass After with the last id of this one. Errors: ErrInvalid.
func (t Table[M]) List(ctx context.Context, filters ...Filter) ([]*M, error) {
	condition, args, err := t.condition(filters, maxPage)
	if err != nil {
		return nil, err
	}
	return t.many(ctx, condition, args...)
}

// All iterates over the rows that pass every filter, ordered by id. It reads them in pages as they are
// needed, so memory and locks don't grow with the table, and rows written meanwhile may or may not be seen.
// It ends after an error, which comes with a nil row. Limit limits the whole iteration. Errors: as for
// [Table.List].
func (t Table[M]) All(ctx context.Context, filters ...Filter) iter.Seq2[*M, error] {
	return func(yield func(*M, error) bool) {
		left := limitOf(filters)
		for {
			page := cmp.Or(t.r.batch, maxPage)
			if left >= 0 {
				page = min(page, left)
			}
			rows, err := t.List(ctx, append(filters[:len(filters):len(filters)], Limit(page))...)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range rows {
				if !yield(m, nil) {
					return
				}
			}
			if left >= 0 {
				left -= len(rows)
			}
			if len(rows) < page || left == 0 {
				return
			}
			filters = append(filters[:len(filters):len(filters)], After(t.r.id(rows[len(rows)-1])))
		}
	}
}
