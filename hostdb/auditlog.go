package hostdb

import (
	"context"
	"encoding/json"
	"reflect"
	"time"
)

// HostAuditLog is an event (sys_audit_logs). Rows are only ever added: Update and Delete fail with
// ErrImmutable, and triggers refuse UPDATE, DELETE and TRUNCATE by every program, including those of the
// table's owner. So the log is immutable against DML, but not against DDL: a role that may alter the table
// can disable the triggers or rewrite a column, and the log doesn't show it. [DB.Verify] reports triggers
// that are missing or disabled.
//
// Personal data is stored apart from the rows (sys_audit_personal), and put back into Details and IPAddress
// when they are read, until [DB.Erase] removes it: users' email, oauth_id and stripe_cust_id, subscriptions'
// stripe_cust_id, every IPAddress, and the Details of rows with PersonalOf. Such a part can be deleted, but
// not changed or added later. What was erased reads "[erased]".
//
// The library adds a row for each of its changes of users, tenants, memberships, subscriptions and plans, in
// the same transaction. EventType is "tenant.created", "tenant.updated" or "tenant.deleted", TargetID the
// row's id, and Details the columns that were set, or {"column": [before, after]}. Secrets and long values
// are masked. "user.login" is written at a login, and "tenant.dropped" when a dropped tenant's database was
// removed, both without details.
type HostAuditLog struct {
	ID          string
	ActorUserID string // who caused it; no foreign key
	EventType   string // required
	TargetID    string // the row that it concerns
	Details     string // JSON, up to 64 KiB
	IPAddress   string // personal data of the actor, or else of PersonalOf or the target
	CreatedAt   time.Time

	// PersonalOf is for a product's own rows: the id of a user whose personal data Details contains.
	// [DB.Erase] of that user removes both. Without it Details stay for good.
	PersonalOf string
}

var auditRelation = relation[HostAuditLog]{
	table: "sys_audit_logs", foreignKey: "audit_id",
	columns: []column[HostAuditLog]{
		{"id", func(a *HostAuditLog) any { return &a.ID }, idRule},
		{"actor_user_id", func(a *HostAuditLog) any { return &a.ActorUserID }, anyText},
		{"event_type", func(a *HostAuditLog) any { return &a.EventType }, rule{required: true}},
		{"target_id", func(a *HostAuditLog) any { return &a.TargetID }, anyText},
		{"details", func(a *HostAuditLog) any { return &a.Details }, jsonRule},
		{"ip_address", func(a *HostAuditLog) any { return &a.IPAddress }, anyText},
		{"created_at", func(a *HostAuditLog) any { return &a.CreatedAt }, anyTime},
	},
	defaults: func(*HostAuditLog) {},
	refuseWrite: func(*HostAuditLog) error {
		return &FieldError{Field: "sys_audit_logs", Err: ErrImmutable, Reason: "rows are never changed"}
	},
}

// AuditLogs is the audit log.
type AuditLogs struct{ Table[HostAuditLog] }

// ListForTarget returns the events that concern a row, as [Table.List] does. The order of ids is that of
// time. Errors: ErrInvalid.
func (t AuditLogs) ListForTarget(ctx context.Context, targetID string,
	filters ...Filter) ([]*HostAuditLog, error) {
	return t.List(ctx, append([]Filter{Where("target_id", targetID)}, filters...)...)
}

// ListForActor returns the events that a user caused, as [Table.List] does. The order of ids is that of
// time. Errors: ErrInvalid.
func (t AuditLogs) ListForActor(ctx context.Context, userID string,
	filters ...Filter) ([]*HostAuditLog, error) {
	return t.List(ctx, append([]Filter{Where("actor_user_id", userID)}, filters...)...)
}

// EventTenantDropped is written when a dropped tenant's database was removed.
const EventTenantDropped = "tenant.dropped"

// RecordOnce writes an event that concerns a target, in the name of the context's actor, unless the log has
// it already. It requires a Tx that has locked the target, so that concurrent calls wait for each other.
// Errors: ErrInvalid.
func (t AuditLogs) RecordOnce(ctx context.Context, event, targetID string) error {
	if t.s.tx == nil {
		return invalid("tx", "RecordOnce requires a transaction")
	}
	written, err := t.ListForTarget(ctx, targetID, Where("event_type", event), Limit(1))
	if err != nil || len(written) > 0 {
		return err
	}
	return record(ctx, t.s.tx, event, targetID, "")
}

// actorKey is the context key of WithActor.
type actorKey struct{}

// WithActor returns a context whose changes are written to the audit log in this user's name. A name that
// can't be stored makes the change fail with ErrInvalid on "actor_user_id".
func WithActor(ctx context.Context, userID string) context.Context {
	return context.WithValue(ctx, actorKey{}, userID)
}

// audit writes the audit row of a change. before is nil for a new row, after for a deleted one.
func audit[M any](ctx context.Context, tx *Tx, r *relation[M], what string, before, after *M) error {
	if r.subject == "" {
		return nil
	}
	tx.changed = true
	target := after
	if target == nil {
		target = before
	}
	details, err := json.Marshal(r.changedColumns(before, after))
	if err != nil {
		return &failure{text: "audit details: " + kindOf(err)}
	}
	parts, err := r.personalParts(before, after)
	if err != nil {
		return err
	}
	return record(ctx, tx, r.subject+"."+what, r.id(target), string(details), parts...)
}

// record writes an audit row in the name of the context's actor.
func record(ctx context.Context, tx *Tx, event, target, details string, parts ...personalPart) error {
	actor, _ := ctx.Value(actorKey{}).(string)
	t := tx.AuditLogs
	log := &HostAuditLog{ActorUserID: actor, EventType: event, TargetID: target, Details: details}
	args, err := t.newRow(log)
	if err != nil {
		return err
	}
	return t.s.storeAudit(ctx, log, args, parts)
}

// changedColumns describes a change by columns.
func (r *relation[M]) changedColumns(before, after *M) map[string]any {
	changed := map[string]any{}
	for i := range r.columns {
		c := &r.columns[i]
		switch {
		case before == nil:
			if !reflect.ValueOf(c.at(after)).Elem().IsZero() {
				changed[c.name] = c.shown(after)
			}
		case after == nil:
			if !reflect.ValueOf(c.at(before)).Elem().IsZero() {
				changed[c.name] = c.shown(before)
			}
		case !sameField(c.at(before), c.at(after)):
			changed[c.name] = [2]any{c.shown(before), c.shown(after)}
		}
	}
	return changed
}

// maxShown limits a value in an audit row, in bytes of JSON, so that two values of every column fit.
const maxShown = 4 << 10

// shown returns a column's value as an audit row shows it.
func (c *column[M]) shown(m *M) any {
	if c.rule.masked {
		return mask
	}
	if c.rule.personal {
		return erased
	}
	value := c.at(m)
	if encoded, err := json.Marshal(value); err == nil && len(encoded) > maxShown {
		return "[long]"
	}
	return value
}

// differ reports whether any column differs.
func (r *relation[M]) differ(a, b *M) bool {
	for i := range r.columns {
		if !sameField(r.columns[i].at(a), r.columns[i].at(b)) {
			return true
		}
	}
	return false
}

// sameField compares two fields by value. A nil and an empty list are equal.
func sameField(a, b any) bool {
	if list, ok := a.(*[]string); ok && len(*list) == 0 {
		return len(*b.(*[]string)) == 0
	}
	return reflect.DeepEqual(a, b)
}
