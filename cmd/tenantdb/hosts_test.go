package main

import (
	"net/url"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// The commands connect to the host database's server themselves.
func TestCLI_isNotDelayedByASilentFirstHost(t *testing.T) {
	t.Parallel()
	o := newOperator(t, pgtest.Clone(t, "host", func(url string) error {
		db, err := hostdb.Open(t.Context(), url)
		if err != nil {
			return err
		}
		return db.Close()
	}))
	u, err := url.Parse(o.url)
	must(t, err)
	u.Host = pgtest.Mute(t) + "," + u.Host
	o.env["TENANTDB_HOST_URL"] = u.String()
	began := time.Now()
	if clock := o.findings(0)["clock"]; clock["status"] != "ok" {
		t.Errorf("doctor: %v", clock)
	}
	o.ok("hostdb", "lockdown", "--yes")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
