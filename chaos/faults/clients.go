package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// clients are faults of clients and of operators.
var clients = []rig.Fault{
	{Name: "450 clients leave while their queries run", Settle: 5 * time.Second, Do: clientsLeave},
	{Name: "clients read a kilobyte a second", Settle: 5 * time.Second, Do: clientsAreSlow},
	{Name: "statement_timeout of 300 ms", Settle: 4 * time.Second, Do: statementTimeout},
	{Name: "role's password changed, then the catalog", Settle: 6 * time.Second, Do: rotated},
	{Name: "columns added to a table that is in use", Settle: 2 * time.Second, Do: migrated},
}

// clientsLeave makes clients give up in the middle of long queries, three times. Their queries must end.
func clientsLeave(w *rig.World, t *rig.Trial) error {
	pool := w.Of(last(w))
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		var asking sync.WaitGroup
		for i := range 150 {
			p, c := w.Processes[i%len(w.Processes)], pool[i%len(pool)].Clients[0]
			asking.Go(func() { w.Load.Ask(ctx, p, "slow", c, "ms=8000") })
		}
		asking.Wait()
		cancel()
		pause(500 * time.Millisecond)
	}
	t.Mended()
	n, err := last(w).Primary().Count(
		"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND " +
			"usename = '" +
			rig.ProductRole + "'")
	if n > 0 {
		t.Problem("%d queries of clients that have gone run half a second later", n)
	}
	return err
}

// clientsAreSlow makes clients of two tenants read slowly, which occupies all connections that those tenants
// may have: half of the budget. Four tenants would occupy all of it.
func clientsAreSlow(w *rig.World, t *rig.Trial) error {
	few := w.Of(last(w))[5:7]
	t.Spares = func(x *rig.Tenant) bool { return !slices.Contains(few, x) }
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	var reading sync.WaitGroup
	for i := range 40 {
		p, c := w.Processes[i%len(w.Processes)], few[i%len(few)].Clients[0]
		reading.Go(func() { w.Load.Read(ctx, p, c, 1024) })
	}
	reading.Wait()
	t.Mended()
	return nil
}

// statementTimeout makes the server end statements. That is the product's own error; trying again wouldn't
// help.
func statementTimeout(w *rig.World, t *rig.Trial) error {
	s := last(w).Primary()
	if err := s.Exec("postgres", "ALTER SYSTEM SET statement_timeout = '300ms'",
		"SELECT pg_reload_conf()"); err != nil {
		return err
	}
	pause(500 * time.Millisecond)
	for i, tenant := range w.Of(last(w))[:10] {
		answer := w.Load.Ask(context.Background(), w.Processes[i%len(w.Processes)], "slow", tenant.Clients[0],
			"ms=2000")
		if answer.Status != 500 && !answer.Denied() {
			t.Problem("a statement that the server ended was answered %s %s", answer.What(),
				rig.Short(answer.Cause))
		}
	}
	err := s.Exec("postgres", "ALTER SYSTEM RESET statement_timeout", "SELECT pg_reload_conf()")
	t.Mended()
	return err
}

// rotated changes the role's password and ends its sessions three seconds before the catalog has the new one.
func rotated(w *rig.World, t *rig.Trial) error {
	const next = "product-1"
	p := last(w)
	t.Spares = elsewhere(p)
	set := func(password, was string) error {
		if err := p.Primary().Exec("postgres",
			fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", rig.ProductRole, password),
			terminateProduct); err != nil {
			return err
		}
		pause(3 * time.Second)
		return w.HostExec("UPDATE core_tenants SET db_url = replace(db_url, $1, $2) WHERE db_url LIKE $3",
			":"+was+"@", ":"+password+"@",
			"%"+p.Primary().Address()+"%")
	}
	if err := set(next, rig.ProductPassword); err != nil {
		return err
	}
	pause(5 * time.Second)
	err := set(rig.ProductPassword, next)
	t.Mended()
	return err
}

// migrated adds columns while requests ask for all of them. None may fail.
func migrated(w *rig.World, t *rig.Trial) error {
	t.Spares = nobody
	few := w.Of(last(w))[5:9]
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				w.Load.Add(w.Load.Ask(context.Background(), w.Processes[n%len(w.Processes)], "wide",
					few[i].Clients[0], ""))
				pause(5 * time.Millisecond)
			}
		})
	}
	for column := range 10 {
		pause(300 * time.Millisecond)
		for _, x := range few {
			if err := x.Pair.Primary().Exec(x.Database,
				fmt.Sprintf("ALTER TABLE wide ADD COLUMN IF NOT EXISTS %s int",
					strings.Repeat("c", column+1))); err != nil {
				return err
			}
		}
	}
	cancel()
	asking.Wait()
	t.Mended()
	return nil
}
