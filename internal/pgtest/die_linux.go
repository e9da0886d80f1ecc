package pgtest

import "syscall"

// dieWithParent has the kernel end the server when the test binary dies, however it dies.
func dieWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGQUIT
}
