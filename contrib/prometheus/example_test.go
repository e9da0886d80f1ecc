package tenantprom_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantdb/tenantdb"
	tenantprom "github.com/tenantdb/tenantdb/contrib/prometheus"
)

// A product gives one collector's observers to its pool and its middleware, and serves the registry at
// /metrics with promhttp.
func ExampleNew() {
	metrics, registry := tenantprom.New(), prometheus.NewRegistry()
	registry.MustRegister(metrics)
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{Observer: metrics.PoolObserver()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close(context.Background())
	config := tenantdb.Config{Pool: pool, Observer: metrics.Observer()} // and Host, Authenticator, Tenant

	config.Observer.Reset(context.Background(), tenantdb.ResetInfo{}) // as the middleware calls it
	families, err := registry.Gather()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range families {
		if f.GetName() == "tenantdb_resets_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: tenantdb_resets_total 1
}
