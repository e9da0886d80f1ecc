package main

import (
	"os"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/chaos/app"
	"github.com/tenantdb/tenantdb/chaos/faults"
	"github.com/tenantdb/tenantdb/chaos/rig"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == app.Argument {
		os.Exit(app.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// small is the size of the world in every test run.
func small(t *testing.T) rig.Size {
	return rig.Size{Servers: 2, Tenants: 10, Files: 10, Processes: 3, Budget: 24, Rate: 60, Dir: t.TempDir()}
}

// live tries faults in a world, one after the other.
func live(t *testing.T, list []rig.Fault) {
	began := time.Now()
	w, err := rig.NewWorld(1, small(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	t.Logf("set up in %.1f s", time.Since(began).Seconds())
	w.ChangeRights(120 * time.Millisecond)
	t.Log("\n" + rig.TableHead)
	for _, f := range list {
		began = time.Now()
		r := w.Try(f)
		t.Logf("%s %.1f s, %v", r.Row(), time.Since(began).Seconds(), r.Notes)
		for _, problem := range r.Problems {
			t.Errorf("%s: %s", f.Name, problem)
		}
	}
	if err := w.Rights.Pause(); err != nil || w.Rights.Changed == 0 {
		t.Errorf("%d rights changed, %d failed, %v", w.Rights.Changed, w.Rights.Failed, err)
	}
}

func TestProduct_keepsItsPromises_whileTheHostDatabaseFails(t *testing.T) {
	t.Parallel()
	list, _ := faults.Quick()
	live(t, list)
}

func TestProduct_keepsItsPromises_whileProcessesServersAndTenantsFail(t *testing.T) {
	t.Parallel()
	_, list := faults.Quick()
	live(t, list)
}
