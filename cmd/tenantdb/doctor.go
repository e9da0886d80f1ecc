package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// doctorCmd is tenantdb doctor.
type doctorCmd struct {
	Processes  int           `default:"1" help:"How many processes of the product run."`
	Budget     int           `default:"40" help:"${doctor_budget}"`
	HostBudget int           `default:"15" help:"${doctor_host_budget}"`
	Parallel   int           `default:"8" help:"How many tenants are checked at once."`
	Timeout    time.Duration `default:"5s" help:"How long a tenant's database may take to answer."`
}

// Help is the long help.
func (*doctorCmd) Help() string {
	return `It changes nothing. The exit code is 1 if something is wrong with the host database or the sum
of connections. It is 2 if only tenants are affected: a database is missing or doesn't answer, or a tenant
has no active owner.

Two statuses don't change the exit code. A note may be right: databases that look like tenants' and have
no row in the catalog, which after a restore of the host database are tenants newer than the backup, and a
pooler beside the server that it stands before. A risk works but is less safe than it could be, such as
tenants that share a role.

It is wrong if URLs name a PostgreSQL server in two ways, such as by its name and by its address, since a
process counts connections by name. Two names are one server if the identifier of its data
(pg_control_system) and its start time are the same. If a role may not read the identifier, the start time
decides.`
}

// finding is the result of one check.
type finding struct {
	check, status, detail string
}

// The statuses of a finding.
const (
	statusOK    = "ok"
	statusRisk  = "risk" // it works, but is less safe than it could be
	statusNote  = "note" // it may be right, but needs a look
	statusWrong = "wrong"
)

var findingColumns = []column[finding]{
	{"check", func(f *finding) any { return f.check }, true},
	{"status", func(f *finding) any { return f.status }, true},
	{"detail", func(f *finding) any { return f.detail }, true},
}

// clockTolerance is how much two clocks may differ. Subscriptions and leases are judged by both.
const clockTolerance = 2 * time.Second

// Run runs the command.
func (c *doctorCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Processes < 1 || c.Budget < 1 || c.HostBudget < 1 || c.Parallel < 1 || c.Timeout <= 0 {
		return errors.New("--processes, --budget, --host-budget, --parallel and --timeout are at least 1")
	}
	pool, err := s.openPool()
	if err != nil {
		return err
	}
	d := &doctor{cmd: c, s: s, host: host, pool: pool, servers: make(map[string]*serverLoad),
		roles: make(map[serverRole]int)}
	d.schema(ctx)
	d.hostServer(ctx)
	d.feed(ctx)
	d.integrity(ctx)
	d.webhooks(ctx)
	d.inventory(ctx)
	if err := d.catalog(ctx); err != nil {
		return err
	}
	d.serverNames()
	d.connections()
	d.roleSharing()
	if err := printList(s, findingColumns, each(d.findings)); err != nil {
		return err
	}
	return d.verdict()
}

// doctor collects findings.
type doctor struct {
	cmd      *doctorCmd
	s        *session
	host     *hostdb.DB
	pool     *tenantdb.Pool
	findings []finding
	failing  int                    // tenants with something wrong
	missing  map[string]bool        // tenants whose database doesn't exist
	servers  map[string]*serverLoad // by the pool's names for them
	roles    map[serverRole]int     // how many databases each role connects to, including the host database
	public   int                    // tenants' databases to which every role may connect
}

func (d *doctor) add(check, status, format string, args ...any) {
	d.findings = append(d.findings, finding{check, status, fmt.Sprintf(format, args...)})
}

// verdict returns the error for the findings.
func (d *doctor) verdict() error {
	n := 0
	for _, f := range d.findings {
		if f.status == statusWrong {
			n++
		}
	}
	switch {
	case n > d.failing:
		return errors.New("something is wrong")
	case n > 0:
		return &exitError{exitTenants, "something is wrong with " + tenants(d.failing)}
	}
	return nil
}

// schema reports the version of the host database's schema. It isn't older than this program's, or the host
// database would not have been opened.
func (d *doctor) schema(ctx context.Context) {
	version, err := d.host.SchemaVersion(ctx)
	if err != nil {
		d.add("schema", statusWrong, "%v", err)
		return
	}
	d.add("schema", statusOK, "version %d of %s", version, d.host)
}

// hostServer compares the clocks, and asks a PostgreSQL server for its limits.
func (d *doctor) hostServer(ctx context.Context) {
	if _, ok := dburl.File(d.host.URI()); ok {
		d.add("clock", statusOK, "SQLite has this machine's")
		return
	}
	conn, err := connectTo(ctx, d.host)
	if err != nil {
		d.add("clock", statusWrong, "the host database's server can't be reached")
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var theirs time.Time
	before := d.s.env.now()
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&theirs); err != nil {
		d.add("clock", statusWrong, "%v", err)
		return
	}
	after := d.s.env.now()
	d.clock(before, after, theirs)
	address, err := dburl.Parse(d.host.URI())
	if err != nil {
		d.add("connections", statusWrong, "the host database's server: %v", err)
		return
	}
	facts, err := factsOf(ctx, conn)
	if err != nil {
		d.add("connections", statusWrong, "the host database's server: %v", err)
		return
	}
	load, _ := d.load(address)
	load.host, load.serverFacts = true, facts
	d.hostAccess(ctx, conn, address.Server())
}

// clock reports how much the server's clock, read between two readings of ours, differs.
func (d *doctor) clock(before, after, theirs time.Time) {
	off := theirs.Sub(before.Add(after.Sub(before) / 2)).Round(time.Millisecond)
	status := statusOK
	if off.Abs() > clockTolerance+after.Sub(before) {
		status = statusWrong
	}
	d.add("clock", status, "here %s, the host database's %s: %v apart", cell(before), cell(theirs), off)
}

// integrity reports missing parts of the schema that safety depends on, and how to restore them.
func (d *doctor) integrity(ctx context.Context) {
	faults, err := d.host.Verify(ctx)
	if err != nil {
		d.add("integrity", statusWrong, "%v", err)
		return
	}
	for _, fault := range faults {
		d.add("integrity", statusWrong, "%s", fault)
	}
	if len(faults) == 0 {
		d.add("integrity", statusOK, "triggers, keys and constraints exist and are enabled")
	}
}

// maxOrphans is how many databases without a row a finding names.
const maxOrphans = 20

// inventory compares the catalog with the databases that exist.
func (d *doctor) inventory(ctx context.Context) {
	f, err := d.s.fleetOn(d.host, d.pool, "", noProvisioning)
	if err == nil {
		var found fleet.Inventory
		if found, err = f.Inventory(ctx); err == nil {
			d.compare(found)
			return
		}
	}
	d.add("databases", statusWrong, "they can't be listed: %v", err)
}

func (d *doctor) compare(found fleet.Inventory) {
	d.missing = make(map[string]bool)
	for _, tenant := range found.Missing {
		d.missing[tenant.ID] = true
	}
	if len(found.Orphans) == 0 {
		d.add("databases", statusOK, "each has a row in the catalog")
		return
	}
	slices.Sort(found.Orphans)
	names := strings.Join(found.Orphans[:min(maxOrphans, len(found.Orphans))], ", ")
	d.add("databases", statusNote, "%d without a row in the catalog, of tenants with these ids: %s. They "+
		"may be another product's. After a restore of the host database they are tenants newer than the "+
		"backup: add the rows again, or drop the databases", len(found.Orphans), names)
}

// feed waits for the first poll of the change feed.
func (d *doctor) feed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	for delivery, err := range d.host.Changes(ctx) {
		if err != nil {
			d.add("feed", statusWrong, "%v", err)
			return
		}
		if delivery.Reset && !delivery.PolledAt.IsZero() {
			d.add("feed", statusOK, "changes are delivered, the first after %v",
				time.Since(began).Round(time.Millisecond))
			return
		}
	}
	d.add("feed", statusWrong, "no changes were delivered within 10s")
}
