//go:build unix && !linux

package pgtest

import "syscall"

// dieWithParent does nothing here: the kernel has no such signal, and Run ends the server.
func dieWithParent(*syscall.SysProcAttr) {}
