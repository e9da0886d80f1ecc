package pgtest

import (
	"os"
	"syscall"
)

// dieWithParent makes the kernel end the server when the test binary ends, however that happens.
func dieWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGQUIT
}

// place is the directory for a server's files. It is in memory if there is room, since copying template
// databases takes most of a test's time.
func place() string {
	const shm, room = "/dev/shm", 4 << 30
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(shm, &fs) != nil || fs.Bavail*uint64(fs.Bsize) < room {
		return os.TempDir()
	}
	return shm
}
