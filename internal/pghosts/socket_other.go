//go:build !linux && !darwin

package pghosts

import "syscall"

// limitUnacknowledged does nothing, because the system has no such option. Sent data may remain unanswered
// for minutes until the system gives up. Awaited data fails by the probes.
func limitUnacknowledged(string, string, syscall.RawConn) error { return nil }
