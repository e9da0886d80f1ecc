package faults

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// tenants are faults of one tenant. No other tenant may notice.
var tenants = []rig.Fault{
	{Name: "one tenant with a wrong password and one with a wrong certificate", Quick: true,
		Settle: 4 * time.Second, Do: badTenant},
	{Name: "SQLite file replaced", Quick: true, Settle: 3 * time.Second, Do: fileReplaced},
	{Name: "SQLite file deleted, then put back", Settle: 4 * time.Second, Do: fileDeleted},
	{Name: "database dropped, made anew 5 s later", Settle: 6 * time.Second, Do: dropped},
	{Name: "tenants behind PgBouncer, which pools transactions", Settle: 5 * time.Second, Do: pooled},
	{Name: "tenant moves to another server", Settle: 6 * time.Second, Do: moved},
}

// steady returns a tenant of a pair whose rights don't change.
func steady(w *rig.World, p *rig.Pair) *rig.Tenant { return w.Of(p)[2] }

// badTenant gives two tenants db_urls that can't work: a wrong password, and TLS where the server has none.
func badTenant(w *rig.World, t *rig.Trial) error {
	p := last(w)
	bad := w.Of(p)[2:4]
	t.Spares = func(x *rig.Tenant) bool { return x != bad[0] && x != bad[1] }
	good := p.URL(bad[0].Database)
	if err := w.Move(bad[0], strings.Replace(good, rig.ProductPassword, "wrong", 1)); err != nil {
		return err
	}
	if err := w.Move(bad[1], strings.Replace(p.URL(bad[1].Database), "sslmode=disable", "sslmode=verify-full",
		1)); err != nil {
		return err
	}
	stop := w.Hammer(bad[0], bad[1])
	pause(5 * time.Second)
	stop()
	for _, x := range bad {
		if err := w.Move(x, p.URL(x.Database)); err != nil {
			return err
		}
	}
	t.Mended()
	return nil
}

// fileReplaced replaces a tenant's file by a restored one, as mv does, while requests write to it. Earlier
// writes are not in the restored file. Later writes that are acknowledged must be.
func fileReplaced(w *rig.World, t *rig.Trial) error {
	victim := w.Of(nil)[2]
	t.Spares = others(victim)
	fresh := filepath.Join(w.Dir, "restored.db")
	if err := rig.MakeFile(fresh, victim.Slug, 2); err != nil {
		return err
	}
	stop := w.Hammer(victim)
	pause(time.Second)
	err := os.Rename(fresh, victim.File)
	w.Judge.Forgive(victim.Slug)
	t.Mended()
	replaced := time.Now()
	pause(3 * time.Second)
	stop()
	old := 0
	for _, s := range w.Load.Look(replaced) {
		if s.Client.Tenant == victim && s.OK() && s.Generation == 1 {
			old++
		}
	}
	if old > 0 {
		t.Problem("%d requests were served from the file that had been replaced", old)
	}
	return err
}

// fileDeleted removes a tenant's file and puts it back.
func fileDeleted(w *rig.World, t *rig.Trial) error {
	victim := w.Of(nil)[2]
	t.Spares = others(victim)
	stop := w.Hammer(victim)
	if err := os.Remove(victim.File); err != nil {
		return err
	}
	w.Judge.Forgive(victim.Slug)
	removed := time.Now()
	pause(4 * time.Second)
	for _, s := range w.Load.Look(removed) {
		if s.Client.Tenant == victim && s.OK() && s.Kind == "write" {
			t.Problem("a write into a file that had been deleted was acknowledged")
			break
		}
	}
	err := rig.MakeFile(victim.File, victim.Slug, 2)
	t.Mended()
	pause(2 * time.Second)
	stop()
	return err
}

func dropped(w *rig.World, t *rig.Trial) error {
	victim := steady(w, last(w))
	t.Spares = others(victim)
	stop := w.Hammer(victim)
	defer stop()
	if err := victim.Pair.Primary().Exec("postgres", "DROP DATABASE "+victim.Database+
		" WITH (FORCE)"); err != nil {
		return err
	}
	w.Judge.Forgive(victim.Slug)
	pause(5 * time.Second)
	err := rig.MakeDatabase(victim.Pair.Primary(), victim.Database, victim.Slug, 2)
	t.Mended()
	pause(6 * time.Second)
	return err
}

// moved changes a tenant's db_url to a database on the other server. After the bound nobody may see the old
// one.
func moved(w *rig.World, t *rig.Trial) error {
	victim, to := steady(w, last(w)), w.Pairs[0]
	t.Spares = others(victim)
	stop := w.Hammer(victim)
	defer stop()
	database := victim.Database + "_moved"
	if err := rig.MakeDatabase(to.Primary(), database, victim.Slug, 3); err != nil {
		return err
	}
	if err := w.Move(victim, to.URL(database)); err != nil {
		return err
	}
	t.Mended()
	committed := time.Now()
	victim.MoveTo(to, database)
	pause(6 * time.Second)
	latest := time.Duration(0)
	for _, s := range w.Load.Look(committed) {
		if s.Client.Tenant == victim && s.OK() && s.Generation != 3 {
			latest = max(latest, s.Sent.Sub(committed))
		}
	}
	if latest > rig.Bound {
		t.Problem("the old database was used %v after the move", latest)
	}
	t.Note("the old database was used until %v after the commit", latest.Round(time.Millisecond))
	return nil
}

// pooled moves a few tenants behind PgBouncer in transaction mode for a while. No request may fail.
func pooled(w *rig.World, t *rig.Trial) error {
	t.Spares = nobody
	few := w.Of(last(w))[2:7]
	bouncer, remove, err := pgtest.LaunchPgBouncer(last(w).Primary().Server, "default_pool_size=2",
		"max_db_connections=2")
	if err != nil {
		return err
	}
	w.OnClose(remove)
	for _, x := range few {
		if err := w.Move(x, bouncer.URL(x.Database)); err != nil {
			return err
		}
	}
	stop := w.Hammer(few...)
	pause(6 * time.Second)
	stop()
	for _, x := range few {
		if err := w.Move(x, x.Pair.URL(x.Database)); err != nil {
			return err
		}
	}
	t.Mended()
	return nil
}
