package hostdb_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestTable_All_streamsAMillionRowsInConstantMemory(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"postgres": postgresURL, "file": fileURL} {
		t.Run(name, func(t *testing.T) {
			total := 1_000_000
			if testing.Short() || underRace { // the race detector makes this twenty times slower
				total = 20_000
			}
			db := open(t, hostdb.Config{URL: hostdb.Secret(place(t))})
			text := "INSERT INTO sys_audit_logs (id, event_type) SELECT lpad(to_hex(i), 32, '0'), 'x' " +
				"FROM generate_series(1, $1::int) i"
			if strings.HasPrefix(db.URI(), "sqlite") {
				text = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
					INSERT INTO sys_audit_logs (id, event_type) SELECT printf('%032x', i), 'x' FROM n`
			}
			_, err := raw(t, db).Exec(text, total)
			must(t, err)
			page, err := db.AuditLogs.List(t.Context(), hostdb.Limit(1000))
			if err != nil || len(page) != 1000 {
				t.Errorf("List returned %d rows, %v; want 1,000", len(page), err)
			}
			heap := func() uint64 {
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				return stats.HeapAlloc
			}
			before, most, n := heap(), uint64(0), 0
			for log, err := range db.AuditLogs.All(t.Context()) {
				must(t, err)
				if n++; log.ID != hexID(n) {
					t.Fatalf("row %d has the id %s", n, log.ID)
				}
				if n%(total/4) == total/8 {
					most = max(most, heap())
				}
			}
			if n != total {
				t.Errorf("%d rows, want %d", n, total)
			}
			if most > before+16<<20 {
				t.Errorf("the heap grew from %d to %d bytes", before, most)
			}
		})
	}
}

func TestTable_All_canBeLeftAndLetsItsLoopWrite(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		for range 5 {
			newTenant(t, db)
		}
		n := 0
		for tenant, err := range db.Tenants.All(t.Context()) {
			must(t, err)
			tenant.Name = "Renamed"
			must(t, db.Tenants.Update(t.Context(), tenant))
			if n++; n == 3 {
				break
			}
		}
		renamed, err := db.Tenants.List(t.Context(), hostdb.Where("name", "Renamed"))
		if err != nil || len(renamed) != 3 {
			t.Errorf("%d tenants renamed, %v", len(renamed), err)
		}
		for tenant, err := range db.Tenants.All(t.Context(), hostdb.Limit(-1)) {
			wantField(t, err, hostdb.ErrInvalid, "limit")
			if tenant != nil {
				t.Error("a row came with the error")
			}
		}
	})
}
