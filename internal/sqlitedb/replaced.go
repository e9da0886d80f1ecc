package sqlitedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// SQLite keeps in FILE-wal what was committed until it is merged into the file. Somebody may remove or
// replace the file while connections have it open. They go on with the file that they have opened. New ones
// find the other file by its name, beside the log of the old one. So each connection knows which file it has
// open. That is compared with the file that has the name before each statement, and again before a write is
// reported.

// logNames follow the file's path in the names of its log and of the log's index.
var logNames = [...]string{"-wal", "-shm"}

// openFile is a file that connections have open. No other file gets its number meanwhile, and no other log
// those of its logs.
type openFile struct {
	id fileID
	// aside says that its logs were set aside. No new connection opens it, even if it gets its name back.
	aside atomic.Bool
	logs  [len(logNames)]fileID // zero for a missing one; guarded by DB.opening
}

// errMoved says that the file was removed or replaced.
var errMoved = errors.New("its file was removed or replaced while it was in use")

// errAside says that the file that was put back is still in use without its log.
var errAside = errors.New("its file was replaced and put back; queries that began before must end first")

// stat returns the file that has the name now. It creates no file and follows no link.
func (f *DB) stat() (fileStat, error) {
	now, err := lstat(f.fullPath)
	if err != nil {
		return fileStat{}, refusal.WithCause(refusal.TenantUnavailable, fmt.Errorf("its file: %w", err))
	}
	if !now.regular {
		return fileStat{}, refusal.WithCause(refusal.TenantUnavailable,
			errors.New("its file is not a regular file"))
	}
	return now, nil
}

// inPlace returns an error unless the connection's file still has the name.
func (c *fileConn) inPlace() error {
	now, err := c.db.stat()
	if err == nil && !now.same(c.file.id) {
		err = refusal.WithCause(refusal.TenantUnavailable, errMoved)
	}
	return err
}

// written is inPlace after a write, before it is reported.
func (c *fileConn) written() error {
	err := c.inPlace()
	if err == nil && !c.logKnown { // a new file has a log since its first write
		c.db.opening.Lock()
		c.db.recordLogs(c.file)
		c.db.opening.Unlock()
		c.logKnown = true
	}
	return err
}

// recordLogs records which logs a file has. The file has the name. The caller holds f.opening.
func (f *DB) recordLogs(file *openFile) {
	for i, name := range logNames {
		file.logs[i] = idOf(f.fullPath + name)
	}
}

// leftovers returns the names of a file's logs if the file lost its own name. The caller holds f.opening.
func (f *DB) leftovers(file *openFile) (names []string) {
	if idOf(f.fullPath).same(file.id) {
		return nil
	}
	for i, name := range logNames {
		if name = f.fullPath + name; idOf(name).same(file.logs[i]) {
			names = append(names, name)
		}
	}
	return names
}

// fileStat is what lstat tells of a file. It doesn't follow a link.
type fileStat struct {
	fileID
	regular     bool
	permissions fs.FileMode
}

// idOf returns the file that has the name, zero if none has.
func idOf(name string) fileID {
	now, _ := lstat(name)
	return now.fileID
}

// matchModes gives the file's logs the permissions of the file, as SQLite does when it makes them. Logs made
// while the file was read-only are read-only too. The caller holds f.opening.
func (f *DB) matchModes(file fileStat) {
	for _, name := range logNames {
		name = f.fullPath + name
		if log, err := lstat(name); err == nil && log.regular && log.permissions != file.permissions {
			_ = os.Chmod(name, file.permissions) // if that isn't allowed, writes fail and say so
		}
	}
}

// setLogsAside renames the logs of a file that lost its name. Else SQLite would apply them to the file that
// has the name now. A log holds what was last committed to the old file, so it is never deleted. The folder
// is locked meanwhile, since another process may do the same and begin a new log. The caller holds f.opening.
func (f *DB) setLogsAside() error {
	if !slices.ContainsFunc(f.conns, func(c *fileConn) bool { return f.leftovers(c.file) != nil }) {
		return nil
	}
	unlock, err := lockFolder(f.fullPath)
	if err != nil {
		return fmt.Errorf("its folder: %w", err)
	}
	defer unlock()
	aside := ".replaced-" + time.Now().UTC().Format("20060102T150405.000000000")
	for _, c := range f.conns {
		for _, name := range f.leftovers(c.file) {
			c.file.aside.Store(true)
			if err := os.Rename(name, name+aside); err != nil {
				return fmt.Errorf("the log of its old file: %w", errors.Unwrap(err))
			}
		}
	}
	return nil
}

// disconnect closes the connection. If it is the last one to a file that lost its name, it first merges the
// log into that file, wherever it is, and sets the log aside. SQLite itself neither merges nor deletes the
// log of such a file.
func (c *fileConn) disconnect() error {
	f := c.db
	f.opening.Lock()
	defer f.opening.Unlock()
	var err error
	if f.users(c.file) == 1 && (c.file.aside.Load() || c.inPlace() != nil) {
		_, _ = c.ExecContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)", nil)
		err = f.setLogsAside()
	}
	f.conns = slices.DeleteFunc(f.conns, func(other *fileConn) bool { return other == c })
	c.closeCached()
	return errors.Join(err, c.driverConn.Close())
}

// serves reports whether the connection may be used for the file that has the name.
func (c *fileConn) serves(now fileID) bool {
	return !c.file.aside.Load() && now.same(c.file.id)
}

// users counts the connections to a file. The caller holds f.opening.
func (f *DB) users(file *openFile) (n int) {
	for _, c := range f.conns {
		if c.file == file {
			n++
		}
	}
	return n
}
