// Package tenantprom exports what tenantdb decides and does as metrics of Prometheus. Labels are operations,
// codes, results and servers, never tenants or users, so that their number is bounded.
//
//	metrics := tenantprom.New()
//	prometheus.MustRegister(metrics)
//	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{Observer: metrics.PoolObserver()})
//	mw, err := tenantdb.New(tenantdb.Config{Observer: metrics.Observer(), Pool: pool, …})
package tenantprom

import (
	"cmp"
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jobs"
	"github.com/tenantdb/tenantdb/stripehook"
)

// Collector is a [prometheus.Collector] of what its observers are told. Several Middlewares and Pools may
// share it. A scrape reads counters only: it takes no lock of the library, and its cost doesn't depend on the
// number of tenants.
type Collector struct {
	all []prometheus.Collector

	decisions, lookups, waits, opens, migrations, jobTimes, deliveries *prometheus.HistogramVec

	refusals, closes, evictions, breakers, polls, tenants *prometheus.CounterVec
	resets, retired                                       prometheus.Counter
	openConns, queue                                      *prometheus.GaugeVec
	lag                                                   prometheus.Gauge
}

// seconds are the buckets of durations, from what a cached decision takes to the longest wait.
var seconds = []float64{1e-6, 1e-5, 1e-4, .001, .005, .025, .1, .5, 1, 2.5, 5, 10}

// New returns a Collector. Register it once.
func New() *Collector {
	c := new(Collector)
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "tenantdb", Name: name, Help: help, Buckets: seconds}, labels)
		c.all = append(c.all, v)
		return v
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		opts := prometheus.CounterOpts{Namespace: "tenantdb", Name: name, Help: help}
		v := prometheus.NewCounterVec(opts, labels)
		c.all = append(c.all, v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		opts := prometheus.GaugeOpts{Namespace: "tenantdb", Name: name, Help: help}
		v := prometheus.NewGaugeVec(opts, labels)
		c.all = append(c.all, v)
		return v
	}
	c.decisions = histogram("decision_duration_seconds", "Time to let a request in or refuse it. Code is ok "+
		"or the refusal's.", "operation", "code", "loaded")
	c.lookups = histogram("lookup_duration_seconds", "Time that requests waited for the host database.",
		"result")
	c.waits = histogram("wait_duration_seconds", "Time that queries waited for a connection.", "server",
		"result")
	c.opens = histogram("open_duration_seconds", "Time to open a connection.", "server", "result")
	c.refusals = counter("refusals_total", "Requests that were let in and answered with an error.", "code")
	c.closes = counter("closes_total", "Connections that were closed.", "server", "result")
	c.evictions = counter("evictions_total", "Connections or files closed to make room.", "server")
	c.breakers = counter("breaker_changes_total", "Changes of a server's breaker, by the new state.",
		"server", "result")
	c.openConns = gauge("connections", "Open connections.", "server")
	c.polls = counter("polls_total", "Polls for changes of the host database.", "result")
	c.lag = gauge("feed_lag_seconds", "Age of the newest known state of the host database, at the "+
		"last poll.").WithLabelValues()
	c.resets = counter("resets_total", "How often everything cached was forgotten.").WithLabelValues()
	c.retired = counter("retirements_total", "Tenants' databases that the pool has closed.").WithLabelValues()
	c.tenants = counter("fleet_tenants_total", "Tenants provisioned or dropped.", "operation", "result")
	c.migrations = histogram("migration_duration_seconds", "Time to migrate a tenant.", "result")
	c.jobTimes = histogram("job_duration_seconds", "Time of an attempt of a job.", "result")
	c.queue = gauge("jobs", "Jobs in the queue.", "state")
	c.deliveries = histogram("webhook_duration_seconds", "Time to work on a webhook.", "result")
	return c
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, v := range c.all {
		v.Describe(to)
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, v := range c.all {
		v.Collect(to)
	}
}

// result is the label of an error.
func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// server is the label of a server.
func server(name string) string { return cmp.Or(name, "sqlite") }

// Observer returns the observer for [tenantdb.Config].
func (c *Collector) Observer() *tenantdb.Observer {
	return &tenantdb.Observer{
		DecisionEnd: func(_ context.Context, i tenantdb.DecisionEndInfo) {
			c.decisions.WithLabelValues(string(i.Operation), cmp.Or(i.Code, "ok"),
				strconv.FormatBool(i.Loaded)).Observe(i.Duration.Seconds())
		},
		LookupEnd: func(_ context.Context, i tenantdb.LookupEndInfo) {
			c.lookups.WithLabelValues(result(i.Err)).Observe(i.Duration.Seconds())
		},
		Refused: func(_ context.Context, i tenantdb.RefusalInfo) { c.refusals.WithLabelValues(i.Code).Inc() },
		Polled: func(_ context.Context, i tenantdb.PollInfo) {
			c.polls.WithLabelValues(result(i.Err)).Inc()
			if i.Err == nil {
				c.lag.Set(i.Lag.Seconds())
			}
		},
		Reset: func(context.Context, tenantdb.ResetInfo) { c.resets.Inc() },
	}
}

// PoolObserver returns the observer for [tenantdb.PoolConfig].
func (c *Collector) PoolObserver() *tenantdb.PoolObserver {
	return &tenantdb.PoolObserver{
		WaitEnd: func(_ context.Context, i tenantdb.WaitEndInfo) {
			c.waits.WithLabelValues(server(i.Server), cmp.Or(i.Code, "ok")).Observe(i.Duration.Seconds())
		},
		OpenEnd: func(_ context.Context, i tenantdb.OpenEndInfo) {
			c.opens.WithLabelValues(server(i.Server), result(i.Err)).Observe(i.Duration.Seconds())
			if i.Err == nil {
				c.openConns.WithLabelValues(server(i.Server)).Inc()
			}
		},
		Closed: func(_ context.Context, i tenantdb.CloseInfo) {
			c.closes.WithLabelValues(server(i.Server), result(i.Err)).Inc()
			c.openConns.WithLabelValues(server(i.Server)).Dec()
		},
		Evicted: func(_ context.Context, i tenantdb.EvictionInfo) {
			c.evictions.WithLabelValues(server(i.Server)).Inc()
		},
		BreakerChanged: func(_ context.Context, i tenantdb.BreakerInfo) {
			c.breakers.WithLabelValues(server(i.Server), i.To).Inc()
		},
		Retired: func(context.Context, tenantdb.RetirementInfo) { c.retired.Inc() },
	}
}

// FleetObserver returns the observer for [fleet.Config].
func (c *Collector) FleetObserver() *fleet.Observer {
	return &fleet.Observer{
		Provisioned: func(_ context.Context, i fleet.ProvisionInfo) {
			c.tenants.WithLabelValues("provision", result(i.Err)).Inc()
		},
		Migrated: func(_ context.Context, r fleet.Result) {
			c.migrations.WithLabelValues(r.Status).Observe(r.Duration.Seconds())
		},
		Dropped: func(_ context.Context, i fleet.DropInfo) {
			c.tenants.WithLabelValues("drop", result(i.Err)).Inc()
		},
	}
}

// JobsObserver returns the observer for [jobs.Config].
func (c *Collector) JobsObserver() *jobs.Observer {
	return &jobs.Observer{
		Ended: func(_ context.Context, i jobs.EndInfo) {
			c.jobTimes.WithLabelValues(string(i.Result)).Observe(i.Duration.Seconds())
		},
		Depth: func(_ context.Context, i jobs.DepthInfo) {
			for state, n := range states(i.QueueDepth) {
				c.queue.WithLabelValues(state).Set(float64(n))
			}
		},
	}
}

// states returns the length of the queue by state.
func states(d hostdb.QueueDepth) map[string]int64 {
	return map[string]int64{"ready": d.Ready, "delayed": d.Delayed, "running": d.Running, "dead": d.Dead}
}

// StripeObserver returns the observer for [stripehook.Config].
func (c *Collector) StripeObserver() *stripehook.Observer {
	return &stripehook.Observer{Delivered: func(_ context.Context, i stripehook.DeliveryInfo) {
		c.deliveries.WithLabelValues(i.Result).Observe(i.Duration.Seconds())
	}}
}
