package hostdb_test

import (
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// wantShare claims n jobs and checks how many of them are a tenant's.
func wantShare(t *testing.T, db *hostdb.DB, tenant string, n, want int) {
	t.Helper()
	got := 0
	for range n {
		if claim(t, db, "w").TenantID == tenant {
			got++
		}
	}
	if got != want {
		t.Errorf("%d of %d jobs were the tenant's, want %d", got, n, want)
	}
}

// line puts n jobs of a tenant in line.
func line(t *testing.T, db *hostdb.DB, tenant string, n int, at *time.Time) (ids []string) {
	t.Helper()
	for range n {
		ids = append(ids, enqueue(t, db, hostdb.SystemJob{JobType: "x", TenantID: tenant, RunAfter: at, MaxAttempts: 1}).ID)
	}
	return ids
}

func TestJobsThatBecomeDueAtOnceTakeTurnsWithOthers(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		late, steady := hostdb.NewID(), hostdb.NewID()
		at := c.Now().Add(time.Hour)
		line(t, db, late, 40, &at)
		line(t, db, steady, 60, nil)
		wantShare(t, db, steady, 40, 40) // the line has gone on
		c.add(time.Hour)
		wantShare(t, db, late, 20, 10)
	})
}

func TestDelayedJobsHoldUpNoneOfTheirTenants(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		late, steady := hostdb.NewID(), hostdb.NewID()
		at := c.Now().Add(time.Hour)
		line(t, db, late, 40, &at)
		line(t, db, steady, 20, nil)
		line(t, db, late, 5, nil)
		wantShare(t, db, late, 10, 5)
	})
}

func TestDeadLettersThatAreRetriedTakeTurnsWithOthers(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		dead, steady := hostdb.NewID(), hostdb.NewID()
		ids := line(t, db, dead, 20, nil)
		for range ids {
			must(t, db.Jobs.Fail(t.Context(), claim(t, db, "w"), "broken"))
		}
		line(t, db, steady, 60, nil)
		wantShare(t, db, steady, 40, 40)
		for _, id := range ids {
			must(t, db.Jobs.Retry(t.Context(), id))
		}
		wantShare(t, db, dead, 20, 10)
	})
}

// Jobs that fail and become due again stand in line like new ones; one whose worker died goes on where it was.
func TestAJobWhoseWorkerDiedKeepsItsPlace(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		tenant := hostdb.NewID()
		first := enqueue(t, db, hostdb.SystemJob{JobType: "x", TenantID: tenant})
		line(t, db, tenant, 5, nil)
		claim(t, db, "killed")
		c.add(2 * time.Minute)
		if j := claim(t, db, "heir"); j.ID != first.ID {
			t.Error("a later job went first")
		}
	})
}
