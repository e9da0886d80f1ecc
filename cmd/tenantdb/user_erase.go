package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// findID returns the id of a user, and a word by which people know them. An id may be of a user who was
// deleted.
func (r userRef) findID(ctx context.Context, host *hostdb.DB) (id, word string, err error) {
	if r.ID != "" {
		return r.ID, r.ID, nil
	}
	user, err := r.find(ctx, host)
	if err != nil {
		return "", "", err
	}
	return user.ID, user.Email, nil
}

// userExportCmd is tenantdb user export.
type userExportCmd struct{ userRef }

// Help is the long help.
func (*userExportCmd) Help() string {
	return "With -o json it is an array of objects with a table and a row. The password's hash is left out. Every job and webhook event is looked at."
}

var exportColumns = []column[hostdb.ExportedRow]{
	{"table", func(r *hostdb.ExportedRow) any { return r.Table }, true},
	{"row", func(r *hostdb.ExportedRow) any { return exportedRow(r.Row) }, true},
}

// exportedRow prints as JSON in a table too.
type exportedRow map[string]any

// String implements fmt.Stringer.
func (r exportedRow) String() string {
	text, err := json.Marshal(map[string]any(r))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Run runs the command.
func (c *userExportCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	id, _, err := c.findID(ctx, host)
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
	return "It deletes the user and the memberships, and removes the e-mail address, the subject and the Stripe customer, earlier ones too, from the " +
		"audit log, subscriptions, jobs and webhook events. The user's id stays in the audit log. It is refused while the user is the last owner of " +
		"a tenant. An erasure that was interrupted is finished by the same command with --id. Delete the customer at Stripe, and what the tenants' " +
		"own databases know, apart from it."
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
	id, word, err := c.findID(ctx, host)
	if err != nil {
		return err
	}
	if err := s.confirm(ctx, c.confirmation, word, fmt.Sprintf("This erases the user %s, for good.", clean(word))); err != nil {
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
		return fmt.Errorf("%d audit rows by or about the user %s hold personal data that can't be erased", report.AuditRowsInClear, id)
	}
	return nil
}
