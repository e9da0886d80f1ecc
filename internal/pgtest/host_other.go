//go:build unix && !linux

package pgtest

import (
	"os"
	"syscall"
)

// dieWithParent does nothing here, since the kernel has no such signal. Run ends the server.
func dieWithParent(*syscall.SysProcAttr) {}

// place is the directory for a server's files.
func place() string { return os.TempDir() }
