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

var auditColumns = []column[hostdb.HostAuditLog]{
	{"id", func(a *hostdb.HostAuditLog) any { return a.ID }, false},
	{"created_at", func(a *hostdb.HostAuditLog) any { return a.CreatedAt }, true},
	{"actor_user_id", func(a *hostdb.HostAuditLog) any { return a.ActorUserID }, true},
	{"event_type", func(a *hostdb.HostAuditLog) any { return a.EventType }, true},
	{"target_id", func(a *hostdb.HostAuditLog) any { return a.TargetID }, true},
	{"ip_address", func(a *hostdb.HostAuditLog) any { return a.IPAddress }, false},
	{"details", func(a *hostdb.HostAuditLog) any { return a.Details }, true},
}

// auditTailCmd is tenantdb audit tail.
type auditTailCmd struct {
	Lines  int           `short:"n" default:"20" help:"How many rows."`
	Since  time.Duration `default:"24h" help:"How far back to look."`
	Follow bool          `short:"f" help:"Go on with rows as they are written, until Ctrl-C. With -o json, each is a line."`
	By     string        `placeholder:"ACTOR" help:"Only rows of this actor."`
	Target string        `placeholder:"ID" help:"Only rows about this row."`
}

// straggler is how long after its id was made a row may come to be seen: ids are made before the commit.
const straggler = 10 * time.Second

// Run runs the command.
func (c *auditTailCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Lines < 0 || c.Lines > 100_000 || c.Since < 0 {
		return errors.New("--lines is 0 to 100000, and --since not negative")
	}
	t := auditTail{host: host, filters: page{}.filters("actor_user_id", c.By, "target_id", c.Target), seen: make(map[string]bool)}
	rows, err := t.last(ctx, s.env.now(), c.Since, c.Lines)
	if err != nil {
		return err
	}
	if !c.Follow {
		return printList(s, auditColumns, each(rows))
	}
	for ctx.Err() == nil {
		if err := t.print(s, rows); err != nil {
			return err
		}
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

// auditTail reads the end of the audit log again and again.
type auditTail struct {
	host    *hostdb.DB
	filters []hostdb.Filter
	seen    map[string]bool // by id: rows that were printed, and may be found again
	looked  time.Time       // when it last looked
}

// last returns the last rows of a while.
func (t *auditTail) last(ctx context.Context, now time.Time, while time.Duration, most int) ([]hostdb.HostAuditLog, error) {
	t.looked = now
	var rows []hostdb.HostAuditLog
	for row, err := range t.all(ctx, now.Add(-while)) {
		if err != nil {
			return nil, err
		}
		if row.ID > idAt(now.Add(-straggler)) {
			t.seen[row.ID] = true
		}
		if rows = append(rows, *row); len(rows) >= 2*most+1000 { // however long the while is, memory is bounded
			rows = append(rows[:0], rows[len(rows)-most:]...)
		}
	}
	return rows[max(0, len(rows)-most):], nil
}

// next returns the rows that came since it last looked, however long ago, also those whose ids are a little older.
func (t *auditTail) next(ctx context.Context, now time.Time) ([]hostdb.HostAuditLog, error) {
	since := t.looked.Add(-straggler)
	t.looked = now
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

// all iterates over the rows made since then.
func (t *auditTail) all(ctx context.Context, since time.Time) iter.Seq2[*hostdb.HostAuditLog, error] {
	return t.host.AuditLogs.All(ctx, append(slices.Clone(t.filters), hostdb.After(idAt(since)))...)
}

// print prints rows a line each, which can be read while more are to come.
func (t *auditTail) print(s *session, rows []hostdb.HostAuditLog) error {
	for i := range rows {
		row := &rows[i]
		line := fmt.Sprintf("%s  %s  %s  %s  %s", cell(row.CreatedAt), clean(row.ActorUserID), clean(row.EventType), clean(row.TargetID), clean(row.Details))
		if s.flags.Output == "json" {
			text, err := object(auditColumns, row)
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

// idAt is less than every id made at a time or later: ids begin with their milliseconds (RFC 9562, section 5.7).
func idAt(at time.Time) string {
	return fmt.Sprintf("%012x", max(0, at.UnixMilli()))
}
