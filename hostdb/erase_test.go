package hostdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// traces is the personal data of a user to be erased, and of another user with very similar names.
type traces struct {
	user, other *hostdb.GlobalUser
	tenant      *hostdb.TenantCatalog
	sub         *hostdb.Subscription
	words       []string // every word that ever named the user
	jobs        map[string]*hostdb.SystemJob
}

// leaveTraces writes to every table that may name a user.
func leaveTraces(t *testing.T, db *hostdb.DB) traces {
	t.Helper()
	ctx := t.Context()
	w := traces{words: []string{"ann@example.com", "ann.old@example.com", "auth|ann-7", "cus_Ann1",
		"cus_AnnOld", "192.0.2.7"}}
	w.user = &hostdb.GlobalUser{Email: "ann.old@example.com", OAuthID: "auth|ann-7",
		StripeCustID: "cus_AnnOld", PasswordHash: "swordfish"}
	must(t, db.Users.Insert(ctx, w.user))
	w.user.Email, w.user.StripeCustID = "Ann@example.com", "cus_Ann1"
	must(t, db.Users.Update(ctx, w.user))
	must(t, db.Users.RecordLogin(ctx, w.user.ID))
	w.user, _ = db.Users.Get(ctx, w.user.ID)
	w.other = &hostdb.GlobalUser{Email: "joann@example.com", OAuthID: "auth|ann-77",
		StripeCustID: "cus_Ann12"}
	must(t, db.Users.Insert(ctx, w.other))
	w.tenant = newTenant(t, db)
	newMember(t, db, w.other, w.tenant, hostdb.RoleOwner)
	newMember(t, db, w.user, w.tenant, hostdb.RoleOwner)
	w.sub = &hostdb.Subscription{TenantID: w.tenant.ID, StripeSubID: "sub_1", StripeCustID: "cus_Ann1",
		Status: "active"}
	must(t, db.Subscriptions.Insert(ctx, w.sub))
	must(t, db.AuditLogs.Insert(ctx,
		&hostdb.HostAuditLog{EventType: "export", ActorUserID: w.user.ID, IPAddress: "192.0.2.7"}))
	must(t, db.AuditLogs.Insert(ctx,
		&hostdb.HostAuditLog{EventType: "invited", PersonalOf: w.user.ID,
			Details: `{"to":"ann@example.com"}`}))
	payloads := map[string]string{
		"completed": `{"to":"someone","name":"Ann","user":"` + w.user.ID + `"}`,
		"pending":   `{"cc":["joann@example.com"],"to":"ANN@example.com","n":10000000000000000000001}`,
		"failed":    "send to ann@example.com, cus_Ann1 and cus_Ann12, before ann.old@example.com",
		"escaped":   `{"to":"ann\u0040example.com"}`,
		"others":    `{"to":"joann@example.com"}`,
	}
	w.jobs = map[string]*hostdb.SystemJob{}
	for name, payload := range payloads {
		j := &hostdb.SystemJob{JobType: "mail", Payload: payload, Status: name, DedupeKey: name +
			" ann@example.com", ErrorLog: "no route to ann@example.com"}
		if name == "escaped" || name == "others" {
			j.Status, j.DedupeKey, j.ErrorLog = hostdb.JobPending, name, ""
		}
		must(t, db.Jobs.Insert(ctx, j))
		w.jobs[name] = j
	}
	for i, payload := range []string{
		`{"id":"evt_0","type":"customer.subscription.updated","created":1700000000,"livemode":false,
			"request":{"idempotency_key":"ann@example.com"},
			"data":{"object":{"id":"sub_1","object":"subscription","customer":"cus_Ann1","status":"active",
			"current_period_end":1800000000,
			"default_payment_method":{"card":{"last4":"4242","exp_year":2030}},
			"pause_collection":{"behavior":"void"},
			"metadata":{"tenant_id":"` + w.tenant.ID + `","plan_tier":"pro","name":"Ann",
			"user_id":"` + w.user.ID + `"},
			"items":{"data":[{"quantity":2,"price":{"id":"price_pro","unit_amount":1500,
			"nickname":"for ann@example.com"}}]}}}}`,
		`{"id":"evt_1","type":"checkout.session.completed","created":1700000001,
			"data":{"object":{"id":"cs_1","customer_details":
			{"email":"ann\u0040example.com","name":"Ann","address":{"city":"X"}}}}}`,
		`{"id":"evt_2","type":"invoice.paid","created":1700000002,
			"data":{"object":{"id":"in_1","customer":"cus_other","customer_email":"kim@example.com"}}}`,
	} {
		must(t, db.WebhookEvents.Insert(ctx,
			&hostdb.StripeWebhookEvent{EventID: fmt.Sprintf("evt_%d", i), EventType: "x",
				PayloadJSON: payload}))
	}
	return w
}

// texts returns the contents of all tables, a line for each row.
func texts(t *testing.T, db *hostdb.DB) (rows []string) {
	t.Helper()
	pool := raw(t, db)
	list := "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
	if db.Engine() == hostdb.EnginePostgres {
		list = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
	}
	names, err := pool.Query(list)
	must(t, err)
	defer names.Close()
	tables := 0
	for names.Next() {
		var table string
		must(t, names.Scan(&table))
		found, err := pool.Query("SELECT * FROM " + table)
		must(t, err)
		columns, err := found.Columns()
		must(t, err)
		for found.Next() {
			cells, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range cells {
				places[i] = &cells[i]
			}
			must(t, found.Scan(places...))
			rows = append(rows, table+" "+fmt.Sprint(cells...))
		}
		must(t, found.Close())
		tables++
	}
	if tables < 12 || len(rows) < 12 {
		t.Fatalf("%d tables and %d rows were looked at", tables, len(rows))
	}
	return rows
}

// lines returns the lines that contain a word, in any case, other than as a part of somebody else's longer
// word.
func lines(rows []string, word string) (found []string) {
	others := strings.NewReplacer("joann@example.com", "", "auth|ann-77", "", "cus_ann12", "")
	for _, row := range rows {
		if strings.Contains(others.Replace(strings.ToLower(row)), strings.ToLower(word)) {
			found = append(found, row)
		}
	}
	return found
}

// export returns an export as JSON lines.
func export(t *testing.T, db *hostdb.DB, userID string) (rows []string) {
	t.Helper()
	for row, err := range db.Export(t.Context(), userID) {
		must(t, err)
		text, err := json.Marshal(row)
		must(t, err)
		rows = append(rows, string(text))
	}
	return rows
}

// onSeveral runs a test on the engines that other programs can read.
func onSeveral(t *testing.T, test func(t *testing.T, db *hostdb.DB)) {
	for name, place := range severalProcesses {
		t.Run(name, func(t *testing.T) { test(t, open(t, hostdb.Config{URL: hostdb.Secret(place(t))})) })
	}
}

func TestDB_Erase_leavesNoByteAndKeepsTheLog(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		w := leaveTraces(t, db)
		for _, word := range w.words {
			if len(lines(texts(t, db), word)) == 0 {
				t.Errorf("%s is nowhere before: the test shows nothing", word)
			}
		}
		logs := func() (n int) {
			must(t, raw(t, db).QueryRow("SELECT count(*) FROM sys_audit_logs").Scan(&n))
			return n
		}
		before := logs()
		got, err := db.Erase(hostdb.WithActor(t.Context(), "operator"), w.user.ID)
		must(t, err)
		want := hostdb.ErasedReport{User: true, Memberships: 1, Subscriptions: 1, WebhookEvents: 2, Jobs: 4,
			AuditParts: got.AuditParts}
		if got != want || got.AuditParts < 5 {
			t.Errorf("the report is %+v, want %+v", got, want)
		}
		for _, word := range w.words {
			if found := lines(texts(t, db), word); len(found) > 0 {
				t.Errorf("%s is still in %q", word, found)
			}
		}
		if after := logs(); after != before+3 { // the membership, the subscription, the user
			t.Errorf("%d audit rows became %d", before, after)
		}
		for _, statement := range []string{"DELETE FROM sys_audit_logs",
			"UPDATE sys_audit_logs SET details = NULL", "UPDATE sys_audit_personal SET content = 'x'"} {
			if _, err := raw(t, db).Exec(statement); err == nil {
				t.Errorf("%s is not refused", statement)
			}
		}
		theOthersStay(t, db, w)
		again, err := db.Erase(t.Context(), w.user.ID)
		if err != nil || again != (hostdb.ErasedReport{}) || logs() != before+3 {
			t.Errorf("once more: %+v, %v", again, err)
		}
		for _, row := range export(t, db, w.user.ID) {
			if !strings.Contains(row, `"table":"sys_audit_logs"`) {
				t.Errorf("an export after it has %s", row)
			}
		}
	})
}

// theOthersStay checks what an erasure must leave.
func theOthersStay(t *testing.T, db *hostdb.DB, w traces) {
	t.Helper()
	ctx := t.Context()
	created, err := db.AuditLogs.ListForTarget(ctx, w.user.ID, hostdb.Where("event_type", "user.created"))
	if err != nil || len(created) != 1 || !strings.Contains(created[0].Details, `"email":"[erased]"`) {
		t.Errorf("the audit row of the creation: %+v, %v", created, err)
	}
	if end, err := db.AuditLogs.ListForTarget(ctx, w.user.ID,
		hostdb.Where("event_type", hostdb.EventUserErased)); err != nil || len(end) != 1 ||
		end[0].Details != "" || end[0].ActorUserID != "operator" {
		t.Errorf("the audit row of the erasure: %+v, %v", end, err)
	}
	if made, err := db.AuditLogs.ListForTarget(ctx, w.other.ID); err != nil ||
		!strings.Contains(made[0].Details, "joann@example.com") {
		t.Errorf("the other's audit row: %+v, %v", made, err)
	}
	for name, want := range map[string]string{
		"completed": "",
		"pending":   `{"cc":["joann@example.com"],"n":10000000000000000000001,"to":"[erased]"}`,
		"failed":    "send to [erased], [erased] and cus_Ann12, before [erased]",
		"escaped":   `{"to":"[erased]"}`,
		"others":    w.jobs["others"].Payload,
	} {
		j, err := db.Jobs.Get(ctx, w.jobs[name].ID)
		must(t, err)
		if j.Payload != want || j.Status != w.jobs[name].Status {
			t.Errorf("the %s job is %s with %q, want %q", name, j.Status, j.Payload, want)
		}
	}
	for id, want := range map[string]string{
		"evt_0": `{"created":1700000000,"data":{"object":{"current_period_end":1800000000,"id":"sub_1",` +
			`"items":{"data":[{"price":{"id":"price_pro","unit_amount":1500},"quantity":2}]},` +
			`"metadata":{"plan_tier":"pro","tenant_id":"` + w.tenant.ID + `"},"object":"subscription",` +
			`"pause_collection":{"behavior":"void"},"status":"active"}},"id":"evt_0","livemode":false,` +
			`"type":"customer.subscription.updated"}`,
		"evt_1": `{"created":1700000001,"data":{"object":{"id":"cs_1"}},"id":"evt_1",` +
			`"type":"checkout.session.completed"}`,
	} {
		if e, err := db.WebhookEvents.ByEventID(ctx, id); err != nil || e.PayloadJSON != want {
			t.Errorf("%s is %s, %v; want %s", id, e.PayloadJSON, err, want)
		}
	}
	if e, err := db.WebhookEvents.ByEventID(ctx, "evt_2"); err != nil ||
		!strings.Contains(e.PayloadJSON, "kim@example.com") {
		t.Errorf("another's event: %+v, %v", e, err)
	}
	if s, err := db.Subscriptions.Get(ctx, w.sub.ID); err != nil || s.StripeSubID != "sub_1" ||
		s.Status != "active" {
		t.Errorf("the subscription: %+v, %v", s, err)
	}
}

func TestDB_Export_returnsEverythingStored(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		w := leaveTraces(t, db)
		rows := export(t, db, w.user.ID)
		for _, word := range append(w.words, w.user.ID) { // every row that names the user is in the export
			for _, line := range lines(texts(t, db), word) {
				table, _, _ := strings.Cut(line, " ")
				if strings.HasPrefix(table, "host_") { // changes, by id
					continue
				}
				table = strings.ReplaceAll(table, "sys_audit_personal", "sys_audit_logs")
				if !slices.ContainsFunc(lines(rows, word),
					func(row string) bool { return strings.Contains(row, `"table":"`+table+`"`) }) {
					t.Errorf("%s is in %s and not in the export's rows of %s", word, line, table)
				}
			}
		}
		count := map[string]int{}
		for _, row := range rows {
			var parsed hostdb.ExportedRow
			must(t, json.Unmarshal([]byte(row), &parsed))
			count[parsed.Table]++
			if strings.Contains(row, "swordfish") {
				t.Errorf("the export shows %s", row)
			}
		}
		want := map[string]int{"core_users": 1, "core_memberships": 1, "core_subscriptions": 1, "sys_jobs": 4,
			"core_stripe_webhook_events": 2,
			"sys_audit_logs":             6} // created, updated, login, export, invited, the subscription
		if fmt.Sprint(count) != fmt.Sprint(want) {
			t.Errorf("the export has %v, want %v", count, want)
		}
		for _, err := range db.Export(t.Context(), hostdb.NewID()) {
			if !errors.Is(err, hostdb.ErrNotFound) {
				t.Errorf("of nobody: %v", err)
			}
		}
	})
}

func TestDB_Erase_refusesALastOwner(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		w := leaveTraces(t, db)
		var slugs []string
		for range 2 {
			sole := newTenant(t, db)
			newMember(t, db, w.user, sole, hostdb.RoleOwner)
			slugs = append(slugs, sole.Slug)
		}
		dropped := newTenant(t, db)
		newMember(t, db, w.user, dropped, hostdb.RoleOwner)
		dropped.Status = hostdb.TenantDropped
		must(t, db.Tenants.Update(t.Context(), dropped))
		before := texts(t, db)
		_, err := db.Erase(t.Context(), w.user.ID)
		var about *hostdb.FieldError
		if !errors.As(err, &about) || about.Field != "last_owner" || !errors.Is(err, hostdb.ErrConflict) ||
			!strings.Contains(about.Reason, slugs[0]) || !strings.Contains(about.Reason, slugs[1]) ||
			strings.Contains(about.Reason, w.tenant.Slug) ||
			strings.Contains(about.Reason, dropped.Slug) {
			t.Fatalf("Erase = %v, want a conflict that names %v", err, slugs)
		}
		if after := texts(t, db); !slices.Equal(before, after) {
			t.Error("something was changed")
		}
	})
}

// The context ends before every write in turn.
func TestDB_Erase_finishesAnInterruptedOne(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		w := leaveTraces(t, db)
		finished := false
		for steps := 1; !finished; steps++ {
			if steps > 200 {
				t.Fatal("it never ends")
			}
			ctx := &fewSteps{Context: t.Context()}
			ctx.left.Store(int64(steps))
			_, err := db.Erase(ctx, w.user.ID)
			finished = err == nil
		}
		for _, word := range w.words {
			if found := lines(texts(t, db), word); len(found) > 0 {
				t.Errorf("%s is still in %q", word, found)
			}
		}
	})
}

// fewSteps is a context that ends after a number of calls of Err.
type fewSteps struct {
	context.Context
	left atomic.Int64
}

// Err implements context.Context.
func (c *fewSteps) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestDB_Erase_sparesWhatOthersHaveToo(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		ctx := t.Context()
		short := &hostdb.GlobalUser{Email: "k@x.io", OAuthID: "7", StripeCustID: "cus_shared"}
		other := &hostdb.GlobalUser{Email: "k@y.io", OAuthID: "8", StripeCustID: "cus_shared"}
		must(t, errors.Join(db.Users.Insert(ctx, short), db.Users.Insert(ctx, other)))
		tenant := newTenant(t, db)
		sub := &hostdb.Subscription{TenantID: tenant.ID, StripeCustID: "cus_shared"}
		job := &hostdb.SystemJob{JobType: "x",
			Payload: `{"a":"7","b":"17","c":7,"d":"mk@x.io","e":"k@x.io.uk","f":"mail k@x.io."}`}
		must(t, errors.Join(db.Subscriptions.Insert(ctx, sub), db.Jobs.Insert(ctx, job)))
		_, err := db.Erase(ctx, short.ID)
		must(t, err)
		if got, err := db.Subscriptions.Get(ctx, sub.ID); err != nil || got.StripeCustID != "cus_shared" {
			t.Errorf("the customer of two: %+v, %v", got, err)
		}
		want := `{"a":"[erased]","b":"17","c":7,"d":"mk@x.io","e":"k@x.io.uk","f":"mail [erased]."}`
		if got, err := db.Jobs.Get(ctx, job.ID); err != nil || got.Payload != want {
			t.Errorf("the payload is %s, %v; want %s", got.Payload, err, want)
		}
		if _, err := db.Erase(ctx, hostdb.NewID()); !errors.Is(err, hostdb.ErrNotFound) {
			t.Errorf("an erasure of nobody: %v", err)
		}
	})
}

// Deleting alone leaves the audit log's personal parts.
func TestDB_Erase_ofADeletedUser(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		user := newUser(t, db)
		must(t, db.Users.Delete(t.Context(), user.ID))
		if len(lines(texts(t, db), user.Email)) == 0 {
			t.Fatal("the address is nowhere before: the test shows nothing")
		}
		_, err := db.Erase(t.Context(), user.ID)
		must(t, err)
		if found := lines(texts(t, db), user.Email); len(found) > 0 {
			t.Errorf("the address is still in %q", found)
		}
	})
}

func TestJobs_Prune_byAgeAndStatus(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, now := t.Context(), time.Now()
		for status, ended := range map[string][]time.Duration{hostdb.JobCompleted: {time.Hour, 3 * time.Hour},
			hostdb.JobFailed: {3 * time.Hour}, hostdb.JobCancelled: {3 * time.Hour}, hostdb.JobPending: {0},
			hostdb.JobRunning: {0}} {
			for _, age := range ended {
				j := &hostdb.SystemJob{JobType: "x", Status: status, CreatedAt: now.Add(-9 * time.Hour)}
				if at := now.Add(-age); age > 0 {
					j.CompletedAt = &at
				}
				must(t, db.Jobs.Insert(ctx, j))
			}
		}
		prune := func(want int64, left string, age time.Duration, statuses ...string) {
			t.Helper()
			if n, err := db.Jobs.Prune(ctx, age, statuses...); err != nil || n != want {
				t.Errorf("Prune(%v, %v) = %d, %v; want %d", age, statuses, n, err, want)
			}
			var there []string
			for j, err := range db.Jobs.All(ctx) {
				must(t, err)
				there = append(there, j.Status)
			}
			if slices.Sort(there); strings.Join(there, " ") != left {
				t.Errorf("left are %v, want %s", there, left)
			}
		}
		prune(0, "cancelled completed completed failed pending running", 4*time.Hour)
		prune(1, "cancelled completed failed pending running", 2*time.Hour, hostdb.JobCompleted)
		prune(1, "completed failed pending running", 2*time.Hour)
		prune(1, "failed pending running", 0)
		prune(1, "pending running", 0, hostdb.JobFailed)
		for _, status := range []string{hostdb.JobPending, hostdb.JobRunning, "x') OR (1=1"} {
			if _, err := db.Jobs.Prune(ctx, 0, status); !errors.Is(err, hostdb.ErrInvalid) {
				t.Errorf("status %q: %v", status, err)
			}
		}
		if _, err := db.Jobs.Prune(ctx, -1); !errors.Is(err, hostdb.ErrInvalid) {
			t.Errorf("a negative age: %v", err)
		}
	})
}

func TestJobs_Prune_deletesAllPages(t *testing.T) {
	onSeveral(t, func(t *testing.T, db *hostdb.DB) {
		text := `INSERT INTO sys_jobs (id, job_type, status, completed_at)
			SELECT lpad(to_hex(i), 32, '0'), 'x', 'completed', '2020-01-01T00:00:00.000000Z'
			FROM generate_series(1, 2500) i`
		if db.Engine() == hostdb.EngineSQLite {
			text = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
				INSERT INTO sys_jobs (id, job_type, status, completed_at)
				SELECT printf('%032x', i), 'x', 'completed', '2020-01-01T00:00:00.000000Z' FROM n`
		}
		_, err := raw(t, db).Exec(text)
		must(t, err)
		if n, err := db.Jobs.Prune(t.Context(), time.Hour); err != nil || n != 2500 {
			t.Errorf("Prune = %d, %v", n, err)
		}
	})
}
