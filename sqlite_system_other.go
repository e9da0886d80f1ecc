//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package tenantdb

import (
	"errors"
	"io/fs"
	"os"
)

// lockFolder does nothing here: the system doesn't let an open file be replaced, or processes must not share
// the files.
func lockFolder(string) (unlock func(), err error) { return func() {}, nil }

// handleLimit isn't known here.
func handleLimit() uint64 { return 0 }

// fileID tells a file from others that exist at the same time. The zero value is no file.
type fileID struct{ info fs.FileInfo }

// same reports whether both are one file.
func (id fileID) same(other fileID) bool {
	return id.info != nil && other.info != nil && os.SameFile(id.info, other.info)
}

// lstat is [os.Lstat], whose error doesn't name the path here.
func lstat(path string) (fileStat, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return fileStat{}, errors.Unwrap(err)
	}
	return fileStat{fileID{info}, info.Mode().IsRegular(), info.Mode().Perm()}, nil
}
