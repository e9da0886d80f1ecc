package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// auditCmd is tenantdb audit.
type auditCmd struct {
	Tail auditTailCmd `cmd:"" help:"Print the last rows of the audit log, and with -f those that follow."`
}

// auditColumns are the columns of a row of the audit log, with the names of the actor and the target.
func auditColumns(n *names) []column[hostdb.HostAuditLog] {
	return []column[hostdb.HostAuditLog]{
		{"id", func(a *hostdb.HostAuditLog) any { return a.ID }, false},
		{"created_at", func(a *hostdb.HostAuditLog) any { return a.CreatedAt }, true},
		{"actor", func(a *hostdb.HostAuditLog) any { return n.actor(a.ActorUserID) }, true},
		{"actor_user_id", func(a *hostdb.HostAuditLog) any { return a.ActorUserID }, false},
		{"event_type", func(a *hostdb.HostAuditLog) any { return a.EventType }, true},
		{"target", func(a *hostdb.HostAuditLog) any { return n.target(a.EventType, a.TargetID) }, true},
		{"target_id", func(a *hostdb.HostAuditLog) any { return a.TargetID }, true},
		{"ip_address", func(a *hostdb.HostAuditLog) any { return a.IPAddress }, false},
		{"details", func(a *hostdb.HostAuditLog) any { return a.Details }, true},
	}
}

// auditTailCmd is tenantdb audit tail.
type auditTailCmd struct {
	Lines  int           `short:"n" default:"20" help:"How many rows."`
	Since  time.Duration `default:"24h" help:"How far back to look."`
	Follow bool          `short:"f" help:"${audit_follow}"`
	By     string        `placeholder:"ACTOR" help:"${audit_by}"`
	Target string        `placeholder:"ROW" help:"${audit_target}"`
}

// maxCommitDelay is how much later than its id a row may become visible: the id is made before the commit.
const maxCommitDelay = 10 * time.Second

// Run runs the command.
func (c *auditTailCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Lines < 0 || c.Lines > 100_000 || c.Since < 0 {
		return errors.New("--lines is 0 to 100000, and --since not negative")
	}
	t := auditTail{host: host, names: s.names(ctx, host), seen: make(map[string]bool)}
	var err error
	if t.by, err = aliases(ctx, host, c.By, false); err != nil {
		return err
	}
	if t.target, err = aliases(ctx, host, c.Target, true); err != nil {
		return err
	}
	rows, err := t.last(ctx, s.env.now(), c.Since, c.Lines)
	if err != nil {
		return err
	}
	if !c.Follow {
		return printList(s, auditColumns(t.names), each(rows))
	}
	for ctx.Err() == nil {
		if err := t.print(s, rows); err != nil {
			return err
		}
		if ctx.Err() != nil {
			t.names.failed = nil // Ctrl-C interrupted a query, and is the normal end
			return nil
		}
		if t.names.failed != nil {
			return nil // the session's close returns it
		}
		t.names.known.Purge() // a tenant may have been renamed
		select {
		case <-time.After(s.env.poll):
		case <-ctx.Done():
			return nil
		}
		if rows, err = t.next(ctx, s.env.now()); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// auditTail polls the end of the audit log.
type auditTail struct {
	host   *hostdb.DB
	names  *names
	by     []string        // only rows of these actors; empty: all
	target []string        // only rows about these ids; empty: all
	seen   map[string]bool // ids of recent rows that were printed
	polled time.Time       // the last poll
}

// last returns the last rows, at most so many, of the time up to now.
func (t *auditTail) last(ctx context.Context, now time.Time, since time.Duration,
	most int) ([]hostdb.HostAuditLog, error) {
	t.polled = now
	var rows []hostdb.HostAuditLog
	for row, err := range t.all(ctx, now.Add(-since)) {
		if err != nil {
			return nil, err
		}
		if row.ID > idAt(now.Add(-maxCommitDelay)) {
			t.seen[row.ID] = true
		}
		if rows = append(rows, *row); len(rows) >= 2*most+1000 { // bounds the memory
			rows = append(rows[:0], rows[len(rows)-most:]...)
		}
	}
	return rows[max(0, len(rows)-most):], nil
}

// next returns the rows that became visible since the last poll. Their ids may be a little older.
func (t *auditTail) next(ctx context.Context, now time.Time) ([]hostdb.HostAuditLog, error) {
	since := t.polled.Add(-maxCommitDelay)
	t.polled = now
	maps.DeleteFunc(t.seen, func(id string, _ bool) bool { return id <= idAt(since) })
	var rows []hostdb.HostAuditLog
	for row, err := range t.all(ctx, since) {
		if err != nil {
			return nil, err
		}
		if !t.seen[row.ID] {
			t.seen[row.ID] = true
			rows = append(rows, *row)
		}
	}
	return rows, nil
}

// aliases returns the ids that a name may stand for in the audit log: the name itself, the id of the user
// with this e-mail address, and, for a target, the id of the tenant with this slug.
func aliases(ctx context.Context, host *hostdb.DB, named string, target bool) ([]string, error) {
	if named == "" {
		return nil, nil
	}
	ids := []string{named}
	user, err := host.Users.ByEmail(ctx, named)
	if err == nil {
		ids = append(ids, user.ID)
	} else if !errors.Is(err, hostdb.ErrNotFound) {
		return nil, err
	}
	if !target || !hostdb.ValidSlug(named) {
		return ids, nil
	}
	tenant, err := host.Tenants.BySlug(ctx, named)
	if err == nil {
		ids = append(ids, tenant.ID)
	} else if !errors.Is(err, hostdb.ErrNotFound) {
		return nil, err
	}
	return ids, nil
}

// all iterates over the selected rows since then. The database selects a single actor or target.
func (t *auditTail) all(ctx context.Context, since time.Time) iter.Seq2[*hostdb.HostAuditLog, error] {
	filters := []hostdb.Filter{hostdb.After(idAt(since))}
	if len(t.by) == 1 {
		filters = append(filters, hostdb.Where("actor_user_id", t.by[0]))
	}
	if len(t.target) == 1 {
		filters = append(filters, hostdb.Where("target_id", t.target[0]))
	}
	rows := t.host.AuditLogs.All(ctx, filters...)
	return func(yield func(*hostdb.HostAuditLog, error) bool) {
		for row, err := range rows {
			if err == nil && !(among(t.by, row.ActorUserID) && among(t.target, row.TargetID)) {
				continue
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// among reports whether an id is selected. No selection selects all.
func among(selected []string, id string) bool {
	return len(selected) == 0 || slices.Contains(selected, id)
}

// print prints each row as a line, so that output can be read while it goes on.
func (t *auditTail) print(s *session, rows []hostdb.HostAuditLog) error {
	for i := range rows {
		row := &rows[i]
		target := row.TargetID
		if name := t.names.target(row.EventType, row.TargetID); name != "" {
			target = name + " (" + row.TargetID + ")"
		}
		line := fmt.Sprintf("%s  %s  %s  %s  %s", cell(row.CreatedAt), clean(t.names.actor(row.ActorUserID)),
			clean(row.EventType), clean(target), clean(row.Details))
		if s.flags.Output == "json" {
			text, err := object(auditColumns(t.names), row)
			if err != nil {
				return err
			}
			line = string(text)
		}
		if _, err := fmt.Fprintln(s.env.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// idAt returns a string that is less than every id made at a time or later. Ids begin with their time in
// milliseconds (RFC 9562, section 5.7).
func idAt(at time.Time) string {
	return fmt.Sprintf("%012x", max(0, at.UnixMilli()))
}
