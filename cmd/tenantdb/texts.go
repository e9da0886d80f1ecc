package main

import (
	"strings"
	"sync"

	"github.com/alecthomas/kong"
)

// texts holds the help texts and lists of values that are too long for a line with a struct tag. A tag refers
// to one as ${name}. They aren't variables of kong's, since kong expands all variables anew for each flag of
// each command.
var texts = map[string]string{
	"actor":          "The name that the audit log records for this command.",
	"amount_monthly": "The monthly price in the currency's smallest unit.",
	"amount_yearly":  "The yearly price in the currency's smallest unit.",
	"audit_by":       "Only rows of this actor: a user's id or e-mail address, or a name such as tenantdb.",
	"audit_follow":   "Print new rows as they are written, until Ctrl-C. With -o json, each row is a line.",
	"audit_target":   "Only rows about this row: its id, a tenant's slug, or a user's e-mail address.",
	"batch": "How many tenants form a batch; the next batch begins when all of them have ended. Default: " +
		"all.",
	"canary": "Tenants that go first. One failure among the canaries stops the run.",
	"doctor": "Check the host database, the catalog, every tenant's database and the sum of connections.",
	"doctor_budget": "How many connections each process may have to a server of tenants: " +
		"PoolConfig.MaxConns / PoolConfig.Processes.",
	"doctor_host_budget": "How many connections each process may have to the host database: " +
		"hostdb.Config.MaxConns + LookupConns + one that listens.",
	"exec_sql":    "The statement. Without it, or with -, it is read from standard input, up to 1 MiB.",
	"exec_tenant": "Run it in this tenant's database (slug or id); may be repeated.",
	"exec_write":  "Let the statement write. The audit log records it for each tenant, without its text.",
	"host": "The host database, such as sqlite:host.db. It can't contain a password: set " +
		"TENANTDB_HOST_URL instead, or DB_TYPE, DB_USER, DB_PASS, DB_HOST, DB_PORT and DB_NAME.",
	"lock_timeout": "PostgreSQL: how long a migration in a transaction waits for a lock before it tries " +
		"again; -1s uses the server's setting.",
	"lockdown": "On PostgreSQL, let only the roles that need it connect to the host database; tenants' " +
		"roles don't.",
	"lockdown_allow":   "Further roles that may connect, such as those of backups and monitoring.",
	"maintenance":      "Close a tenant for a while. Its requests are answered with 503 and Retry-After.",
	"max_conns":        "How many connections this command may have to each server of tenants.",
	"max_failure_rate": "Stop when more than this share (0 to 1) has failed, once 20 tenants have ended.",
	"max_failures": "Stop after this many failures; -1 is never. Default: 1, or never with " +
		"--max-failure-rate.",
	"member_email":    "Only memberships of the user with this e-mail address.",
	"member_id":       "Only memberships of the user with this id.",
	"member_oauth_id": "Only memberships of the user with this subject.",
	"migrations":      "The directory of the tenants' migrations (goose SQL files).",
	"new_oauth_id":    "The new subject at the identity provider; empty for none.",
	"no_template":     "Migrate each new database by itself, instead of copying a template.",
	"oauth_id":        "The user with this subject at the identity provider.",
	"output":          "The output: a table for people, or json for programs.",
	"pause":           "Let a run begin no further tenant, in whichever process it is; retry resumes it.",
	"payment_type":    "How it is paid (subscription, one_time); a new one has subscription.",
	"period_end":      "When the paid period ends, such as 2026-01-31T12:00:00Z.",
	"prune_status":    "Only jobs with these statuses: completed, failed or cancelled.",
	"refuse_late": "Fail a tenant that lacks a migration older than its newest one, instead of " +
		"applying it.",
	"reserved_slugs": "Slugs that no tenant may be given, instead of the default list (www, api, login, " +
		"…). The word none allows all.",
	"shared_role":  "On PostgreSQL new tenants connect as the server's role, not each as its own role.",
	"subscription": "Its id, its id at Stripe (sub_…), or a tenant (slug or id) that has only this one.",
	"subscription_status": "The status (incomplete, incomplete_expired, trialing, active, past_due, " +
		"canceled, unpaid, paused). A new subscription has incomplete.",
	"subscription_trial":  "Start a plan's trial for a tenant that never had a subscription.",
	"subscription_update": "Change a subscription. A later Stripe event about it overwrites the change.",
	"sys_admin": "Mark the user as an administrator of the product. It grants nothing in this " +
		"library.",
	"tenants_dir": "The directory of the tenants' SQLite files.",
	"user_delete": "Delete a user without memberships. The audit log keeps the address; erase removes " +
		"that too.",
	"user_erase": "Erase a user, including personal data in the audit log, jobs and webhook events.",
	"wait_for_others": "How long to wait, once the tenant is closed, until the product's processes know " +
		"and have finished its requests: their CacheConfig.MaxStaleness plus the time of their longest " +
		"request.",
	"webhooks_replay": "Apply stored events again that failed, or that came before their subscription.",

	"ended_statuses":     "completed,failed,cancelled",
	"job_statuses":       "pending, running, completed, failed, cancelled",
	"migration_statuses": "pending, running, done, failed, skipped",
	"subscription_statuses": "incomplete, incomplete_expired, trialing, active, past_due, canceled, " +
		"unpaid, paused",
	"tenant_statuses":  "provisioning, active, suspended, maintenance, dropped",
	"webhook_statuses": "processed, failed, skipped_out_of_order, parked",
}

// expandTexts replaces the names of texts and lists in the tags of all commands, flags and arguments.
func expandTexts(k *kong.Kong) error {
	expand := strings.NewReplacer(pairs()...)
	return kong.Visit(k.Model.Node, func(node kong.Visitable, next kong.Next) error {
		switch node := node.(type) {
		case *kong.Node:
			node.Help = expand.Replace(node.Help)
		case *kong.Value:
			node.Help, node.Enum = expand.Replace(node.Help), expand.Replace(node.Enum)
		}
		return next(nil)
	})
}

// pairs returns the references to the texts, each followed by its text.
var pairs = sync.OnceValue(func() []string {
	var all []string
	for name, text := range texts {
		all = append(all, "${"+name+"}", text)
	}
	return all
})
