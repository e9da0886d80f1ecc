package hostdb_test

import (
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/hostdb/hostdbtest"
)

func TestConformance_ofEveryEngine(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hostdbtest.Run(t, func(t *testing.T) *hostdb.DB {
				return open(t, hostdb.Config{URL: hostdb.Secret(place(t))})
			})
		})
	}
}
