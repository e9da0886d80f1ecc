package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// idAndName returns a user's id and a readable name. The id may be that of a deleted user.
func (r userRef) idAndName(ctx context.Context, host *hostdb.DB) (id, name string, err error) {
	if r.ID != "" {
		return r.ID, r.ID, nil
	}
	user, err := r.user(ctx, host)
	if err != nil {
		return "", "", err
	}
	return user.ID, user.Email, nil
}

// userExportCmd is tenantdb user export.
type userExportCmd struct{ userRef }

// Help is the long help.
func (*userExportCmd) Help() string {
	return "With -o json it prints an array of objects with a table and a row. It searches all jobs and " +
		"webhook events. The password's hash is left out."
}

var exportColumns = []column[hostdb.ExportedRow]{
	{"table", func(r *hostdb.ExportedRow) any { return r.Table }, true},
	{"row", func(r *hostdb.ExportedRow) any { return exportedRow(r.Row) }, true},
}

// exportedRow is a row that is printed as JSON even in a table.
type exportedRow map[string]any

// String implements [fmt.Stringer].
func (r exportedRow) String() string {
	text, err := json.Marshal(map[string]any(r))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Run runs the command.
func (c *userExportCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	id, _, err := c.idAndName(ctx, host)
	if err != nil {
		return err
	}
	return printList(s, exportColumns, func(yield func(*hostdb.ExportedRow, error) bool) {
		for row, err := range host.Export(ctx, id) {
			if !yield(&row, err) {
				return
			}
		}
	})
}

// userEraseCmd is tenantdb user erase.
type userEraseCmd struct {
	userRef
	confirmation
}

// Help is the long help.
func (*userEraseCmd) Help() string {
	return "It deletes the user and the memberships. It removes the e-mail address, the subject and the " +
		"Stripe customer, including earlier ones, from the audit log, subscriptions, jobs and webhook " +
		"events. The user's id stays in the audit log. It refuses the last owner of a tenant. If it is " +
		"interrupted, repeat it with --id. It doesn't delete the customer at Stripe or data in the " +
		"tenants' databases."
}

var erasedColumns = []column[hostdb.ErasedReport]{
	{"user", func(r *hostdb.ErasedReport) any { return r.User }, true},
	{"memberships", func(r *hostdb.ErasedReport) any { return r.Memberships }, true},
	{"subscriptions", func(r *hostdb.ErasedReport) any { return r.Subscriptions }, true},
	{"webhook_events", func(r *hostdb.ErasedReport) any { return r.WebhookEvents }, true},
	{"jobs", func(r *hostdb.ErasedReport) any { return r.Jobs }, true},
	{"audit_parts", func(r *hostdb.ErasedReport) any { return r.AuditParts }, true},
	{"audit_rows_in_clear", func(r *hostdb.ErasedReport) any { return r.AuditRowsInClear }, true},
}

// Run runs the command.
func (c *userEraseCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	id, name, err := c.idAndName(ctx, host)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("This erases the user %s for good.", clean(name))
	if err := s.confirm(ctx, c.confirmation, name, what); err != nil {
		return err
	}
	report, err := host.Erase(ctx, id)
	if err != nil {
		return fmt.Errorf("user %s: %w", id, err)
	}
	if err := printOne(s, erasedColumns, &report); err != nil {
		return err
	}
	if report.AuditRowsInClear > 0 {
		return fmt.Errorf("%d audit rows by or about the user %s hold personal data that can't be erased",
			report.AuditRowsInClear, id)
	}
	return nil
}
