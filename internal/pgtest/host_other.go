//go:build unix && !linux

package pgtest

import (
	"os"
	"syscall"
)

// dieWithParent does nothing here: the kernel has no such signal, and Run ends the server.
func dieWithParent(*syscall.SysProcAttr) {}

// place is where a server's files go.
func place() string { return os.TempDir() }
