//go:build !linux && !darwin

package pghosts

import "syscall"

// limitUnacknowledged does nothing: the system has no such option. Until it gives up by itself what was sent
// stays without an answer, for minutes; what is awaited fails by the probes.
func limitUnacknowledged(string, string, syscall.RawConn) error { return nil }
