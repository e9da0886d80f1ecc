// Package faults has the faults that are tried in the world of package rig.
package faults

import (
	"slices"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// All returns every fault, in the default order.
func All() []rig.Fault {
	return slices.Concat(processes, servers, tenants, clients, hosts)
}

// Quick returns the faults that every test run tries: first those of the host database, then the others.
func Quick() (hostFaults, serverFaults []rig.Fault) {
	for _, f := range All() {
		if !f.Quick {
			continue
		}
		if slices.ContainsFunc(hosts, func(h rig.Fault) bool { return h.Name == f.Name }) {
			hostFaults = append(hostFaults, f)
		} else {
			serverFaults = append(serverFaults, f)
		}
	}
	return hostFaults, serverFaults
}

// pause waits while the world goes on.
func pause(d time.Duration) { <-time.After(d) }

// elsewhere spares the tenants that are not on a pair of servers.
func elsewhere(p *rig.Pair) func(*rig.Tenant) bool {
	return func(t *rig.Tenant) bool { return t.Pair != p }
}

// others spares all tenants but one.
func others(one *rig.Tenant) func(*rig.Tenant) bool {
	return func(t *rig.Tenant) bool { return t != one }
}

// nobody spares all tenants.
func nobody(*rig.Tenant) bool { return true }
