// Package faults is what goes wrong in the world of package rig.
package faults

import (
	"slices"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// All returns every fault, in the order in which they are tried when nobody says another.
func All() []rig.Fault {
	return slices.Concat(processes, servers, tenants, clients, hosts)
}

// Quick returns the faults that every test run tries, of those lists.
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

// pause lets the world go on for a while.
func pause(d time.Duration) { <-time.After(d) }

// elsewhere spares the tenants that aren't of a pair of servers.
func elsewhere(p *rig.Pair) func(*rig.Tenant) bool {
	return func(t *rig.Tenant) bool { return t.Pair != p }
}

// others spares all tenants but one.
func others(one *rig.Tenant) func(*rig.Tenant) bool {
	return func(t *rig.Tenant) bool { return t != one }
}

// nobody has every tenant spared.
func nobody(*rig.Tenant) bool { return true }
