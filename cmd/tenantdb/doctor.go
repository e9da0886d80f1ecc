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
	Budget     int           `default:"40" help:"How many connections each of them may have to a server of tenants: PoolConfig.MaxConns / PoolConfig.Processes."`
	HostBudget int           `default:"15" help:"How many connections each of them may have to the host database: hostdb.Config.MaxConns, LookupConns and one that listens."`
	Parallel   int           `default:"8" help:"How many tenants are tried at once."`
	Timeout    time.Duration `default:"5s" help:"How long a tenant's database may take to answer."`
}

// Help is the long help.
func (*doctorCmd) Help() string {
	return `It changes nothing. It exits with 1 if something is wrong with the host database or the sum of connections, with 2 if only tenants are
concerned: a database that isn't there or doesn't answer, a tenant without an active owner. Databases that look like tenants' and have no
row in the catalog are noted: after the host database was restored from a backup they are tenants that are newer than it. A PostgreSQL server that URLs name in two ways, as by its
name and by its address, is wrong: a process counts the connections to each name by itself. Two names are one server where the identifier of
its data (pg_control_system) and the moment it started are the same; where a role may not read the identifier, the moment decides. A pooler
beside the server that it stands before is noted. A risk is
something that works and is less safe than it could be, such as tenants that share a role. Neither changes the exit code.`
}

// finding is what one look found.
type finding struct {
	check, status, detail string
}

// The statuses of a finding.
const (
	fine  = "ok"
	risky = "risk" // it works, and is less safe than it could be
	note  = "note" // to be looked at; it may be right
	wrong = "wrong"
)

var findingColumns = []column[finding]{
	{"check", func(f *finding) any { return f.check }, true},
	{"status", func(f *finding) any { return f.status }, true},
	{"detail", func(f *finding) any { return f.detail }, true},
}

// clockTolerance is how far two clocks may be apart: subscriptions and leases are judged by both.
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
	d := &doctor{cmd: c, s: s, host: host, pool: pool, servers: make(map[string]*serverLoad), roles: make(map[serverRole]int)}
	d.schema(ctx)
	d.hostServer(ctx)
	d.feed(ctx)
	d.integrity(ctx)
	d.webhooks(ctx)
	d.inventory(ctx)
	if err := d.catalog(ctx); err != nil {
		return err
	}
	d.names()
	d.connections()
	d.judgeRoles()
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
	sick     int                    // tenants with something wrong
	missing  map[string]bool        // tenants whose database isn't there
	servers  map[string]*serverLoad // by the names that pools know them by
	roles    map[serverRole]int     // how many databases each role connects to, the host's included
	exposed  int                    // tenants' databases to which every role may connect
}

func (d *doctor) add(check, status, format string, args ...any) {
	d.findings = append(d.findings, finding{check, status, fmt.Sprintf(format, args...)})
}

// verdict is the error that the findings amount to.
func (d *doctor) verdict() error {
	n := 0
	for _, f := range d.findings {
		if f.status == wrong {
			n++
		}
	}
	switch {
	case n > d.sick:
		return errors.New("something is wrong")
	case n > 0:
		return &exitError{exitTenants, "something is wrong with " + tenants(d.sick)}
	}
	return nil
}

// schema reports the version of the host database's schema, which isn't older than this program's, or it
// would not have been opened.
func (d *doctor) schema(ctx context.Context) {
	version, err := d.host.SchemaVersion(ctx)
	if err != nil {
		d.add("schema", wrong, "%v", err)
		return
	}
	d.add("schema", fine, "version %d of %s", version, d.host)
}

// hostServer compares the clocks, and asks a PostgreSQL server for its limits.
func (d *doctor) hostServer(ctx context.Context) {
	if _, ok := dburl.File(d.host.URI()); ok {
		d.add("clock", fine, "SQLite has this machine's")
		return
	}
	conn, err := connectTo(ctx, d.host)
	if err != nil {
		d.add("clock", wrong, "the host database's server can't be asked")
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var theirs time.Time
	before := d.s.env.now()
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&theirs); err != nil {
		d.add("clock", wrong, "%v", err)
		return
	}
	after := d.s.env.now()
	d.clock(before, after, theirs)
	address, err := dburl.Parse(d.host.URI())
	if err != nil {
		d.add("connections", wrong, "the host database's server: %v", err)
		return
	}
	asked, err := askServer(ctx, conn)
	if err != nil {
		d.add("connections", wrong, "the host database's server: %v", err)
		return
	}
	load, _ := d.load(address)
	load.host, load.answer = true, asked
	d.hostAccess(ctx, conn, address.Server())
}

// clock judges the server's clock, which was read between two moments of ours.
func (d *doctor) clock(before, after, theirs time.Time) {
	off := theirs.Sub(before.Add(after.Sub(before) / 2)).Round(time.Millisecond)
	status := fine
	if off.Abs() > clockTolerance+after.Sub(before) {
		status = wrong
	}
	d.add("clock", status, "here %s, the host database's %s: %v apart", cell(before), cell(theirs), off)
}

// integrity reports what the schema lacks that safety rests on, with what mends it.
func (d *doctor) integrity(ctx context.Context) {
	faults, err := d.host.Verify(ctx)
	if err != nil {
		d.add("integrity", wrong, "%v", err)
		return
	}
	for _, fault := range faults {
		d.add("integrity", wrong, "%s", fault)
	}
	if len(faults) == 0 {
		d.add("integrity", fine, "triggers, keys and constraints are there and enabled")
	}
}

// maxStrays is how many databases without a row are named.
const maxStrays = 20

// inventory compares the catalog with the databases that are there.
func (d *doctor) inventory(ctx context.Context) {
	f, err := d.s.fleetOn(d.host, d.pool, "", nothingNew)
	if err == nil {
		var found fleet.Inventory
		if found, err = f.Inventory(ctx); err == nil {
			d.compare(found)
			return
		}
	}
	d.add("databases", wrong, "they can't be listed: %v", err)
}

func (d *doctor) compare(found fleet.Inventory) {
	d.missing = make(map[string]bool)
	for _, tenant := range found.Missing {
		d.missing[tenant.ID] = true
	}
	if len(found.Strays) == 0 {
		d.add("databases", fine, "each has a row in the catalog")
		return
	}
	slices.Sort(found.Strays)
	names := strings.Join(found.Strays[:min(maxStrays, len(found.Strays))], ", ")
	d.add("databases", note, "%d without a row in the catalog, of tenants with these ids: %s. They may be another product's. After a restore of the "+
		"host database they are what it has forgotten: add the rows again, or drop the databases", len(found.Strays), names)
}

// feed waits for the first look for changes.
func (d *doctor) feed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	for delivery, err := range d.host.Changes(ctx) {
		if err != nil {
			d.add("feed", wrong, "%v", err)
			return
		}
		if delivery.Reset && !delivery.PolledAt.IsZero() {
			d.add("feed", fine, "changes are delivered, the first after %v", time.Since(began).Round(time.Millisecond))
			return
		}
	}
	d.add("feed", wrong, "no changes were delivered within 10s")
}
