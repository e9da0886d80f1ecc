package hostdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// EventUserErased is written when a user was erased. The row has the user's id and no details.
const EventUserErased = "user.erased"

// ErasedReport says what an erasure removed.
type ErasedReport struct {
	User          bool  // the user's row was there
	Memberships   int64 // deleted
	Subscriptions int64 // those that no longer name the user's Stripe customer
	WebhookEvents int64 // those whose payload was redacted
	Jobs          int64 // those whose payload was emptied or redacted
	AuditParts    int64 // personal parts of audit rows that were deleted
	// AuditRowsInClear is how many audit rows by or about the user contain personal data themselves, and
	// can't be changed. They were written after the upgrade to schema version 8 by a process of an older
	// version of the library, or by the product without PersonalOf.
	AuditRowsInClear int64
}

// eraseBatch is how many rows a step of an erasure writes.
const eraseBatch = 100

// Erase removes a user and the personal data about them:
//
//   - the user's row and memberships;
//   - the personal parts of audit rows by or about the user (see [HostAuditLog]). The rows stay, with the
//     user's id;
//   - the Stripe customer in subscriptions, which stay with their tenants;
//   - of webhook events that name the user's id, e-mail address, subject or customer, everything but the
//     event's id, type and time and what a subscription's state is read from. [WebhookEvents] can still be
//     replayed, but name no customer;
//   - the payload of completed jobs that name the user. In other jobs the words that name the user are
//     replaced by "[erased]", in the error too. A DedupeKey that names the user is dropped. A worker finds
//     the id of a user that doesn't exist. A job may contain more about a person, such as a name: cancel
//     such jobs or let them end, then Prune or Delete them.
//
// Earlier addresses, subjects and customers count too, as far as the audit log has them. They are searched
// without regard to the case of ASCII letters and as whole words: "ann@example.com" isn't in
// "joann@example.com". A word shorter than 6 bytes only matches a whole JSON text. A customer that another
// user has too stays. So does the user's id, which identifies nobody any more, and so do tenants with their
// names. Tenants' own databases, backups, space that a file or server has freed but not overwritten, and
// Stripe itself are not reached: delete the customer at Stripe too, or its next event names it again.
//
// If the user is the last active owner of a tenant, nothing is changed: the error is ErrConflict on
// "last_owner", and names the tenants by slug. Everything else happens in short transactions, memberships
// first and the user's row last. It reads all jobs and events and may take minutes. After an interruption
// the next call finishes the erasure, and another call changes nothing. A user whose row was deleted before
// can be erased too. The end is written to the audit log (EventUserErased).
//
// Errors: ErrNotFound for a user that neither exists nor is in the audit log; ErrConflict; ErrInvalid. The
// report is valid even with an error.
func (db *DB) Erase(ctx context.Context, userID string) (ErasedReport, error) {
	var report ErasedReport
	p, err := db.person(ctx, userID)
	if err != nil {
		return report, err
	}
	if err := db.refuseLastOwner(ctx, userID); err != nil {
		return report, err
	}
	for _, step := range []func(context.Context, *person, *ErasedReport) error{db.eraseMemberships,
		db.eraseSubscriptions, db.eraseEvents, db.eraseJobs, db.eraseAuditParts, db.eraseUser,
		db.countInClear} {
		if err := step(ctx, p, &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// namedTenants is how many tenants an error names.
const namedTenants = 10

// refuseLastOwner returns an error that names the tenants that would be left without an active owner.
func (db *DB) refuseLastOwner(ctx context.Context, userID string) error {
	tenants, err := db.Tenants.many(ctx, `WHERE status NOT IN ('provisioning', 'dropped')
		AND active_owners = 1 AND id IN
		(SELECT tenant_id FROM core_memberships WHERE user_id = $1 AND is_active AND role = 'owner')
		ORDER BY id LIMIT 1000`, userID)
	if err != nil || len(tenants) == 0 {
		return err
	}
	var names []string
	for _, tenant := range tenants[:min(len(tenants), namedTenants)] {
		names = append(names, cmp.Or(tenant.Slug, tenant.ID))
	}
	list := strings.Join(names, ", ")
	if more := len(tenants) - len(names); more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return conflict("last_owner", "the user is the last active owner of "+list+
		"; promote another member there, or drop the tenant")
}

// eraseMemberships deletes the memberships.
func (db *DB) eraseMemberships(ctx context.Context, p *person, report *ErasedReport) error {
	for {
		n := int64(0)
		err := db.InTx(ctx, func(tx *Tx) error {
			n = 0
			mine, err := tx.Memberships.ListForUser(ctx, p.id, Limit(eraseBatch))
			if err != nil {
				return err
			}
			for _, m := range mine {
				if err := tx.Memberships.Delete(ctx, m.ID); err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil || n == 0 {
			return err
		}
		report.Memberships += n
	}
}

// eraseSubscriptions removes the customers from subscriptions.
func (db *DB) eraseSubscriptions(ctx context.Context, p *person, report *ErasedReport) (err error) {
	named := func(s *Subscription) bool { return slices.Contains(p.customers, s.StripeCustID) }
	report.Subscriptions, err = changeEach(ctx, db.Subscriptions.Table, db.subscriptionsOf(ctx, p), named,
		func(s *Subscription) {
			if named(s) { // it may have changed since it was listed
				s.StripeCustID = ""
			}
		})
	return err
}

// eraseEvents redacts webhook events.
func (db *DB) eraseEvents(ctx context.Context, p *person, report *ErasedReport) (err error) {
	events := db.WebhookEvents
	report.WebhookEvents, err = changeEach(ctx, events.Table, events.All(ctx), p.mentionedInEvent,
		func(e *StripeWebhookEvent) { e.PayloadJSON = p.redactEvent(e.PayloadJSON) })
	return err
}

// eraseJobs empties or redacts jobs.
func (db *DB) eraseJobs(ctx context.Context, p *person, report *ErasedReport) (err error) {
	report.Jobs, err = changeEach(ctx, db.Jobs.Table, db.Jobs.All(ctx), p.mentionedInJob, p.redactJob)
	return err
}

// changeEach changes the wanted rows and returns how many of them changed. It skips rows that were deleted
// meanwhile.
func changeEach[M any](ctx context.Context, t Table[M], rows iter.Seq2[*M, error], wanted func(*M) bool,
	change func(*M)) (changed int64, err error) {
	for found, err := range rows {
		if err != nil {
			return changed, err
		}
		if !wanted(found) {
			continue
		}
		differs := false
		_, err := t.Change(ctx, t.r.id(found), func(m *M) error {
			before := *m
			change(m)
			differs = t.r.differ(&before, m)
			return nil
		})
		switch {
		case err == nil && differs:
			changed++
		case err != nil && !errors.Is(err, ErrNotFound):
			return changed, err
		}
	}
	return changed, nil
}

// redactJob removes what concerns the person from a job.
func (p *person) redactJob(j *SystemJob) {
	j.ErrorLog = storable(p.replaceWords(j.ErrorLog), maxErrorLog)
	if p.containsWord(j.DedupeKey) {
		j.DedupeKey = ""
	}
	switch redacted := p.redact(j.Payload); {
	case j.Status == JobCompleted && p.mentionsIn(j.Payload), len(redacted) > maxPayload:
		j.Payload = ""
	default:
		j.Payload = redacted
	}
}

// eraseAuditParts deletes the personal parts of audit rows. The user's own come last, because they record
// the words that name the user.
func (db *DB) eraseAuditParts(ctx context.Context, p *person, report *ErasedReport) error {
	for _, owner := range append(p.customers[:len(p.customers):len(p.customers)], p.id) {
		n, err := session{db: db}.execBatches(ctx, `DELETE FROM sys_audit_personal WHERE (audit_id, part) IN (
			SELECT audit_id, part FROM sys_audit_personal WHERE owner = $1 ORDER BY audit_id LIMIT 1000)`,
			owner)
		if report.AuditParts += n; err != nil {
			return err
		}
	}
	return nil
}

// eraseUser deletes the user's row and records the erasure.
func (db *DB) eraseUser(ctx context.Context, p *person, report *ErasedReport) error {
	return db.InTx(ctx, func(tx *Tx) error {
		s := session{db: db, tx: tx}
		if _, err := tx.Users.Lock(ctx, p.id); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if _, err := s.exec(ctx, "DELETE FROM sys_audit_personal WHERE owner = $1", []any{p.id},
			asReported); err != nil {
			return err // of changes since the step before
		}
		n, err := s.exec(ctx, "DELETE FROM core_users WHERE id = $1", []any{p.id},
			func(string) string { return userRelation.foreignKey })
		if err != nil {
			return err
		}
		report.User = n > 0
		tx.changed = tx.changed || report.User
		return tx.AuditLogs.RecordOnce(ctx, EventUserErased, p.id)
	})
}

// countInClear counts the audit rows that contain personal data themselves.
func (db *DB) countInClear(ctx context.Context, p *person, report *ErasedReport) error {
	for _, column := range []string{"target_id", "actor_user_id"} {
		for after := ""; ; {
			last := after
			err := session{db: db}.query(ctx,
				"SELECT id, coalesce(details, ''), ip_address IS NOT NULL, coalesce(target_id, '') "+
					"FROM sys_audit_logs "+
					"WHERE "+column+" = $1 AND id > $2 ORDER BY id LIMIT 1000", []any{p.id, after},
				func(row scanner) error {
					var details, target string
					var address bool
					if err := row.Scan(&last, &details, &cell{&address}, &target); err != nil {
						return err
					}
					if (address || p.containsWord(details)) && (column == "target_id" || target != p.id) {
						report.AuditRowsInClear++
					}
					return nil
				})
			if err != nil {
				return err
			}
			if last == after {
				break
			}
			after = last
		}
	}
	return nil
}
