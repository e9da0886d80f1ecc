package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

func TestJobs_listRetryAndCancel(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		host, ids := o.host(), []string{}
		for range 3 {
			job := &hostdb.SystemJob{JobType: "mail", Payload: `{"to":"payload@example.com"}`, MaxAttempts: 1}
			_, err := host.Jobs.Enqueue(t.Context(), job)
			must(t, err)
			ids = append(ids, job.ID)
		}
		for range 2 {
			job, err := host.Jobs.Claim(t.Context(), "w", nil, time.Minute)
			must(t, err)
			must(t, host.Jobs.Fail(t.Context(), job, "smtp is\x1b[31m down"))
		}
		if rows := o.list("jobs", "list", "--status=failed"); len(rows) != 2 ||
			rows[0]["job_type"] != "mail" || rows[0]["attempts"] != 1.0 {
			t.Errorf("failed: %v", rows)
		}
		if out := o.ok("jobs", "list"); strings.Contains(out, "payload@") || strings.Contains(out, "\x1b") ||
			!strings.Contains(out, `smtp is\u001b[31m down`) {
			t.Errorf("table: %q", out)
		}
		if rows := o.list("jobs", "cancel", ids[2]); len(rows) != 1 || rows[0]["status"] != "cancelled" {
			t.Errorf("cancelled: %v", rows)
		}
		o.fails(1, ids[2], "jobs", "cancel", ids[2])
		if rows := o.list("jobs", "retry", ids[2]); rows[0]["status"] != "pending" {
			t.Errorf("retried: %v", rows)
		}
		if rows := o.list("jobs", "retry", "--failed"); len(rows) != 2 ||
			len(o.list("jobs", "list", "--status=pending", "--type=mail")) != 3 {
			t.Errorf("all retried: %v", rows)
		}
		o.fails(1, "--failed", "jobs", "retry")
	})
}

func TestJobs_pruneDeletesEndedJobs(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		host, ended := o.host(), time.Now().Add(-31*24*time.Hour)
		for _, status := range []string{hostdb.JobCompleted, hostdb.JobFailed, hostdb.JobPending} {
			must(t, host.Jobs.Insert(t.Context(), &hostdb.SystemJob{JobType: "mail",
				Status: status, CompletedAt: &ended}))
		}
		if got := o.one("jobs", "prune", "--older-than=1000h"); got["deleted"] != 0.0 {
			t.Errorf("pruned young ones: %v", got)
		}
		if got := o.one("jobs", "prune"); got["deleted"] != 1.0 ||
			len(o.list("jobs", "list", "--type=mail")) != 2 {
			t.Errorf("pruned: %v", got)
		}
		if got := o.one("jobs", "prune", "--status=failed,completed"); got["deleted"] != 1.0 ||
			len(o.list("jobs", "list", "--type=mail")) != 1 {
			t.Errorf("pruned: %v", got)
		}
		o.fails(1, "status", "jobs", "prune", "--status=pending")
	})
}

func TestJobs_workFinishesAFailedCreation(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.migration("NONSENSE", "SELECT 1")
		o.fails(1, "00002_step.sql", "tenant", "create", "acme", "--owner-email=ann@example.com",
			"--migrations="+o.migrations())
		if row := o.one("tenant", "show", "acme"); row["status"] != "provisioning" {
			t.Fatalf("after the failure: %v", row)
		}
		o.schema--
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		for _, job := range o.list("jobs", "list", "--type=fleet.tenant") {
			if job["status"] == "failed" {
				o.ok("jobs", "retry", job["id"].(string))
			}
		}
		o.hasten()
		if code, _, complaint := o.run("jobs", "work", "--drain", "--migrations="+
			o.migrations()); code != 0 || !strings.Contains(complaint, "  ok\n") {
			t.Errorf("exit %d, %q", code, complaint)
		}
		if row := o.one("tenant", "show", "acme"); row["status"] != "active" || row["schema_version"] != 2.0 {
			t.Errorf("after the work: %v", row)
		}
	})
}

// hasten makes jobs that wait for their next attempt due.
func (o *operator) hasten() {
	host := o.host()
	for job, err := range host.Jobs.All(o.t.Context(), hostdb.Where("status", hostdb.JobPending)) {
		must(o.t, err)
		job.RunAfter = nil
		must(o.t, host.Jobs.Update(o.t.Context(), job))
	}
}

func TestWebhooks_listAndReplay(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		host := o.host()
		for id, status := range map[string]string{"evt_1": hostdb.WebhookFailed,
			"evt_2": hostdb.WebhookProcessed} {
			_, err := host.WebhookEvents.Record(t.Context(), &hostdb.StripeWebhookEvent{EventID: id,
				EventType: "invoice.payment_failed", Status: status,
				PayloadJSON: `{"id":"` + id + `","object":"event","type":"invoice.payment_failed",` +
					`"created":1700000000,"data":{"object":{"id":"in_payload","object":"invoice"}}}`})
			must(t, err)
		}
		rows := o.list("webhooks", "list", "--status=failed")
		if len(rows) != 1 || rows[0]["event_id"] != "evt_1" ||
			strings.Contains(o.ok("webhooks", "list", "-o", "json"), "in_payload") {
			t.Errorf("failed: %v", rows)
		}
		if rows := o.list("webhooks", "replay", "--status=failed"); len(rows) != 1 ||
			rows[0]["status"] != "processed" || rows[0]["error"] != "" {
			t.Errorf("replayed: %v", rows)
		}
		if rows := o.list("webhooks", "list", "--status=failed"); len(rows) != 0 {
			t.Errorf("after it: %v", rows)
		}
		code, out, _ := o.run("webhooks", "replay", "evt_nobody", "evt_2")
		if got := table(out); code != 1 || len(got) != 3 || !strings.Contains(out, "not found") ||
			!slices.Equal(got[2], []string{"evt_2", "processed"}) {
			t.Errorf("one of two: exit %d, %q", code, out)
		}
		o.fails(1, "--status", "webhooks", "replay")
	})
}

func TestAudit_tailFollowsNewRows(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		if rows := o.list("audit", "tail", "-n1"); len(rows) != 1 || rows[0]["event_type"] != "user.created" {
			t.Fatalf("the last row: %v", rows)
		}
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		reader, writer := io.Pipe()
		ended := make(chan int, 1)
		go func() {
			code := run(ctx, []string{"audit", "tail", "-n1", "-f", "-o", "json"},
				o.world(strings.NewReader(""), writer, io.Discard))
			_ = writer.Close()
			ended <- code
		}()
		lines := bufio.NewScanner(reader)
		next := func() (row map[string]any) {
			if !lines.Scan() {
				t.Fatalf("it ended: %v", lines.Err())
			}
			must(t, json.Unmarshal(lines.Bytes(), &row))
			return row
		}
		next() // the existing rows
		for _, name := range []string{"bob", "eve", "joe"} {
			made := o.one("user", "create", name+"@example.com", "--actor=ops")
			if row := next(); row["target_id"] != made["id"] || row["actor_user_id"] != "ops" {
				t.Errorf("followed: %v; want %v", row, made["id"])
			}
		}
		interrupt()
		if code := <-ended; code != 0 {
			t.Errorf("after Ctrl-C: exit %d", code)
		}
	})
}

func TestAudit_tailMissesNothingAfterALatePoll(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		tail, began := auditTail{host: o.host(), seen: make(map[string]bool)}, time.Now()
		_, err := tail.last(t.Context(), began, 24*time.Hour, 20)
		must(t, err)
		made := o.one("user", "create", "bob@example.com")
		// it was stopped, or its reader closed the output
		rows, err := tail.next(t.Context(), began.Add(time.Hour))
		must(t, err)
		if len(rows) != 1 || rows[0].TargetID != made["id"] {
			t.Errorf("%d rows; want the new one", len(rows))
		}
	})
}

func TestToken_isAcceptedByItsSecret(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "0123456789abcdef0123456789abcdef"}
	args := []string{"token", "ann", "--issuer=https://dev.example", "--audience=api",
		"--claim=tenant=acme", "--claim=iss=evil"}
	o.fails(1, secretVariable, args...)
	o.env[secretVariable] = o.secret[:31]
	o.fails(1, "32 bytes", args...)
	o.env[secretVariable] = o.secret
	o.fails(1, "--ttl", append(args, "--ttl=25h")...)
	auth, err := jwtauth.New(jwtauth.Config{Issuer: "https://dev.example", Audience: "api",
		Algorithms: []string{"HS256"}, Secret: []byte(o.secret)})
	must(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(o.ok(args...)))
	identity, err := auth.Authenticate(r)
	must(t, err)
	if identity.Subject != "ann" || identity.Issuer != "https://dev.example" {
		t.Errorf("identity = %+v", identity)
	}
	if got := o.one(args...); strings.Count(got["token"].(string), ".") != 2 {
		t.Errorf("as JSON: %v", got)
	}
}
