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

// EventUserErased is written when a user was erased. The row has the id, and no details.
const EventUserErased = "user.erased"

// ErasedReport says what an erasure removed.
type ErasedReport struct {
	User          bool  // the user's row was there
	Memberships   int64 // deleted
	Subscriptions int64 // which no longer name the user's Stripe customer
	WebhookEvents int64 // whose payload was redacted
	Jobs          int64 // whose payload was emptied or redacted
	AuditParts    int64 // personal parts of audit rows, deleted
	// AuditRowsInClear is how many audit rows by or about the user hold personal data in clear. They can't be
	// changed. A process of the library's version before schema version 8 wrote them after the upgrade, or
	// the product did, without PersonalOf.
	AuditRowsInClear int64
}

// eraseBatch is how many rows a step of an erasure writes.
const eraseBatch = 100

// Erase removes a user, and what the host database says about the person behind the id:
//
//   - the user's row and memberships;
//   - the personal parts of audit rows by or about the user (see [HostAuditLog]); the rows stay, with the
//     user's id;
//   - the Stripe customer in subscriptions, which stay with their tenants;
//   - of webhook events that name the user's id, e-mail address, subject or customer, everything but the
//     event's id, type and time and what
//     a subscription's state is read from: [WebhookEvents] stay replayable, and name no customer;
//   - the payload of completed jobs that name the user; of other jobs the words by which they do, replaced by
//     "[erased]", also in the error
//     and in the DedupeKey, which is dropped. A worker finds the id of a user who is gone. Of a person a job
//     may say more, such as a name:
//     cancel such jobs, or let them end, and Prune or Delete them.
//
// Earlier addresses, subjects and customers count too, as far as the audit log knows them. They are looked
// for without regard to the case of ASCII letters and as words of their own: "ann@example.com" isn't in
// "joann@example.com", and a word of less than 6 bytes is looked for as a whole JSON text only. A customer
// that another user has too stays. The id stays wherever it stands: it says nothing any more. Tenants stay,
// with their names. Not reached are tenants' own databases, backups, what a file or server has freed but not
// overwritten, and Stripe itself: delete the customer there too, or its next event names it again.
//
// A user who is the last active owner of a tenant is refused before anything is changed: ErrConflict on
// "last_owner", which names the tenants by slug. Everything else goes in short transactions, memberships
// first and the user's row last. It reads all jobs and events and may take minutes. An erasure that was
// interrupted is finished by the next one, and one more changes nothing; so does one of a user whose row was
// deleted before. The end is written to the audit log (EventUserErased).
//
// Errors: ErrNotFound for a user who is not there, nor in the audit log; ErrConflict; ErrInvalid. The report
// says what was done also with an error.
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

// refuseLastOwner names the tenants that would be without an active owner.
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

// changeEach changes the rows that are wanted, and returns how many differ since. A row that was deleted
// meanwhile is passed over.
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

// redactJob removes from a job what concerns the person.
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

// eraseAuditParts deletes the personal parts of audit rows. The user's own are last: they know by which words
// the user was named.
func (db *DB) eraseAuditParts(ctx context.Context, p *person, report *ErasedReport) error {
	for _, owner := range append(p.customers[:len(p.customers):len(p.customers)], p.id) {
		for {
			n, err := session{db: db}.exec(ctx, `DELETE FROM sys_audit_personal
				WHERE (audit_id, part) IN (SELECT audit_id, part
				FROM sys_audit_personal WHERE owner = $1 ORDER BY audit_id LIMIT 1000)`, []any{owner},
				asReported)
			if err != nil {
				return err
			}
			if report.AuditParts += n; n == 0 {
				break
			}
		}
	}
	return nil
}

// eraseUser deletes the user's row, and writes down that the user was erased.
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

// countInClear counts the audit rows that hold personal data themselves.
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
