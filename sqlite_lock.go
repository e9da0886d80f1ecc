//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package tenantdb

import (
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
