package main

import (
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/chaos/judge"
	"github.com/tenantdb/tenantdb/chaos/rig"
)

// The judge proves something only if it notices products that are known to be bad.

func TestJudge_reportsWritesThatAServerLoses(t *testing.T) {
	t.Parallel()
	w, err := rig.NewWorld(1, rig.Size{Servers: 1, Tenants: 5, Processes: 1, Budget: 8, Rate: 200,
		Dir: t.TempDir(), NoStandbys: true,
		Settings: []string{"synchronous_commit=off", "wal_writer_delay=10s", "bgwriter_lru_maxpages=0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lost, reported := 0, 0
	for n := 0; n < 5 && lost == 0; n++ { // the server may have written everything just before
		r := w.Try(rig.Fault{Name: "a server that acknowledges what it hasn't written crashes",
			Settle: 2 * time.Second,
			Do: func(w *rig.World, t *rig.Trial) error {
				<-time.After(2 * time.Second)
				w.Pairs[0].Primary().Crash()
				defer t.Mended()
				return w.Pairs[0].Primary().Start()
			}})
		lost, reported = lost+r.Lost, reported+r.Report.Count(judge.MissingWrite)
		t.Logf("%d lost of %d that were served", r.Lost, r.Summary.Served)
	}
	if lost == 0 || reported != lost {
		t.Errorf("%d writes are lost, and %d verdicts say so", lost, reported)
	}
}

func TestJudge_reportsRevokedMembersThatAreLetIn(t *testing.T) {
	t.Parallel()
	w, err := rig.NewWorld(1, rig.Size{Servers: 1, Tenants: 20, Processes: 1, Budget: 8, Rate: 60,
		Dir: t.TempDir(), NoStandbys: true,
		Args: []string{"-poll", "1h", "-no-notify", "-stale", "1h", "-stale-if-down", "1h", "-age", "1h"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// Each right changes about every 6 s, so that some stay revoked for longer than the bound.
	w.ChangeRights(250 * time.Millisecond)
	<-time.After(rig.Bound + 4*time.Second)
	report := w.Judge.Take()
	t.Logf("%d of %d let in too late, the latest %v after the commit", report.Count(judge.LateAllow),
		report.Judged, report.LatestAllow)
	if report.Count(judge.LateAllow) == 0 {
		t.Error("a product without a feed is not noticed")
	}
}
