package hostdb

import (
	"context"
	"iter"
	"reflect"
)

// ExportedRow is a row about a user, as [DB.Export] returns it.
type ExportedRow struct {
	Table string `json:"table"` // core_users
	// Row has the values by column: string, bool, int, int64, time.Time, *time.Time or []string. Secrets are
	// left out.
	Row map[string]any `json:"row"`
}

// Export iterates over everything that the host database stores about a user: the user without the
// password's hash, the memberships, the subscriptions of the user's Stripe customer, the audit rows by or
// about the user, and the jobs and webhook events that name the user's id, e-mail address, subject or Stripe
// customer, now or earlier. It reads every job and event, page by page, and may take minutes. It also finds
// what is left of a user who was deleted. It doesn't include the contents of tenants' own databases, nor a
// tenant named after a person.
//
// It ends after an error, which comes with the zero row. Errors: ErrNotFound for a user that neither exists
// nor is in the audit log; ErrInvalid.
func (db *DB) Export(ctx context.Context, userID string) iter.Seq2[ExportedRow, error] {
	return func(yield func(ExportedRow, error) bool) {
		p, err := db.person(ctx, userID)
		if err != nil {
			yield(ExportedRow{}, err)
			return
		}
		_ = exportRows(yield, db.Users.Table, db.Users.All(ctx, Where("id", p.id)), nil) &&
			exportRows(yield, db.Memberships.Table, db.Memberships.All(ctx, Where("user_id", p.id)), nil) &&
			exportRows(yield, db.Subscriptions.Table, db.subscriptionsOf(ctx, p), nil) &&
			exportRows(yield, db.AuditLogs.Table, db.AuditLogs.All(ctx, Where("target_id", p.id)), nil) &&
			exportRows(yield, db.AuditLogs.Table, db.AuditLogs.All(ctx, Where("actor_user_id", p.id)),
				p.onlyActor) &&
			exportRows(yield, db.AuditLogs.Table, db.auditWithPartsOf(ctx, p), p.unrelatedRow) &&
			exportRows(yield, db.Jobs.Table, db.Jobs.All(ctx), p.mentionedInJob) &&
			exportRows(yield, db.WebhookEvents.Table, db.WebhookEvents.All(ctx), p.mentionedInEvent)
	}
}

// exportRows yields the wanted rows, or all if wanted is nil. It reports whether to go on.
func exportRows[M any](yield func(ExportedRow, error) bool, t Table[M], rows iter.Seq2[*M, error],
	wanted func(*M) bool) bool {
	for m, err := range rows {
		if err != nil {
			yield(ExportedRow{}, err)
			return false
		}
		if wanted != nil && !wanted(m) {
			continue
		}
		row := make(map[string]any, len(t.r.columns))
		for i := range t.r.columns {
			if c := &t.r.columns[i]; !c.secret(m) {
				row[c.name] = reflect.ValueOf(c.at(m)).Elem().Interface()
			}
		}
		if !yield(ExportedRow{Table: t.r.table, Row: row}, nil) {
			return false
		}
	}
	return true
}

// secret reports whether an export leaves a column out.
func (c *column[M]) secret(m *M) bool {
	_, secret := c.at(m).(*Secret)
	return secret
}

// onlyActor reports whether an audit row isn't about the person. Rows about them have been exported before.
func (p *person) onlyActor(a *HostAuditLog) bool {
	return a.TargetID != p.id
}

// unrelatedRow reports whether an audit row is neither by nor about the person.
func (p *person) unrelatedRow(a *HostAuditLog) bool {
	return a.TargetID != p.id && a.ActorUserID != p.id
}

// subscriptionsOf iterates over the subscriptions of a person's customers.
func (db *DB) subscriptionsOf(ctx context.Context, p *person) iter.Seq2[*Subscription, error] {
	return func(yield func(*Subscription, error) bool) {
		for _, customer := range p.customers {
			for s, err := range db.Subscriptions.All(ctx, Where("stripe_cust_id", customer)) {
				if !yield(s, err) || err != nil {
					return
				}
			}
		}
	}
}

// auditWithPartsOf iterates over the audit rows that contain a part about a person.
func (db *DB) auditWithPartsOf(ctx context.Context, p *person) iter.Seq2[*HostAuditLog, error] {
	return func(yield func(*HostAuditLog, error) bool) {
		for _, owner := range append([]string{p.id}, p.customers...) {
			for after, more := "", true; more; {
				logs, err := db.AuditLogs.many(ctx, "WHERE id IN (SELECT audit_id FROM sys_audit_personal "+
					"WHERE owner = $1 AND audit_id > $2 ORDER BY audit_id LIMIT 1000) ORDER BY id", owner,
					after)
				if err != nil {
					yield(nil, err)
					return
				}
				for _, log := range logs {
					after = log.ID
					if !yield(log, nil) {
						return
					}
				}
				more = len(logs) > 0
			}
		}
	}
}
