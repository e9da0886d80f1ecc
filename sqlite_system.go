//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package tenantdb

import (
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// lockFolder keeps other processes from setting aside logs in a file's folder until unlock is called. It doesn't wait.
func lockFolder(path string) (unlock func(), err error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = folder.Close()
		return nil, err
	}
	return func() { _ = folder.Close() }, nil
}

// handleLimit returns how many files and sockets the process may have open; 0 where it isn't known.
func handleLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return 0
	}
	return uint64(limit.Cur)
}
