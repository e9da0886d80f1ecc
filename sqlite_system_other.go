//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package tenantdb

// lockFolder does nothing here: the system doesn't let an open file be replaced, or processes must not share the files.
func lockFolder(string) (unlock func(), err error) { return func() {}, nil }

// handleLimit isn't known here.
func handleLimit() uint64 { return 0 }
