package pgtest

import (
	"os"
	"syscall"
)

// dieWithParent has the kernel end the server when the test binary dies, however it dies.
func dieWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGQUIT
}

// place is where a server's files go: memory where there is room, since copying template databases is most of
// a test's time.
func place() string {
	const shm, room = "/dev/shm", 4 << 30
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(shm, &fs) != nil || fs.Bavail*uint64(fs.Bsize) < room {
		return os.TempDir()
	}
	return shm
}
