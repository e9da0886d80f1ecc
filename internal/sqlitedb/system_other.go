//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package sqlitedb

import (
	"errors"
	"io/fs"
	"os"
)

// lockFolder does nothing here. The system doesn't let anybody replace an open file, or processes must not
// share the files.
func lockFolder(string) (unlock func(), err error) { return func() {}, nil }

// FileHandleLimit is 0: the limit isn't known here.
func FileHandleLimit() uint64 { return 0 }

// fileID tells a file from others that exist at the same time. The zero value is no file.
type fileID struct{ info fs.FileInfo }

// same reports whether both are one file.
func (id fileID) same(other fileID) bool {
	return id.info != nil && other.info != nil && os.SameFile(id.info, other.info)
}

// lstat is [os.Lstat] with an error that doesn't name the path.
func lstat(path string) (fileStat, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return fileStat{}, errors.Unwrap(err)
	}
	return fileStat{fileID{info}, info.Mode().IsRegular(), info.Mode().Perm()}, nil
}
