//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package sqlitedb

import (
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// lockFolder keeps other processes from setting logs aside in a file's folder until unlock is called. It
// fails instead of waiting.
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

// FileHandleLimit returns how many files and sockets the process may have open. It is 0 if that isn't known.
func FileHandleLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return 0
	}
	return uint64(limit.Cur)
}

// fileID tells a file from others that exist at the same time. The zero value is no file.
type fileID struct {
	device, number uint64
	known          bool
}

// same reports whether both are one file.
func (id fileID) same(other fileID) bool { return id.known && id == other }

// lstat is [os.Lstat] without its allocations, since it runs before each statement. Its error doesn't name
// the path.
func lstat(path string) (fileStat, error) {
	var s syscall.Stat_t
	err := syscall.Lstat(path, &s)
	for err == syscall.EINTR {
		err = syscall.Lstat(path, &s)
	}
	if err != nil {
		return fileStat{}, err
	}
	id, mode := fileID{uint64(s.Dev), uint64(s.Ino), true}, uint32(s.Mode)
	return fileStat{id, mode&syscall.S_IFMT == syscall.S_IFREG, fs.FileMode(mode & 0o777)}, nil
}
