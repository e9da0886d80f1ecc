package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// SQLite keeps what was committed in FILE-wal until it is merged into the file. Somebody may remove or
// replace the file under its connections: they go on with the one that they have opened, while new ones find
// the other by its name, beside the log of the old one. So a connection knows which file it has, and that is
// compared with the one that has the name before each statement, and again before a write is reported.

// logNames follow the file's path in the names of its log and of the log's index.
var logNames = [...]string{"-wal", "-shm"}

// openFile is a file that connections have open. While one has, no other file gets its number, nor those of
// its log.
type openFile struct {
	id    fileID
	aside atomic.Bool           // its logs were set aside: it is left to those who have it open, even if it gets its name back
	logs  [len(logNames)]fileID // zero where there was none; guarded by sqliteDB.opening
}

// errMoved: the file was removed or replaced.
var errMoved = errors.New("its file was removed or replaced while it was in use")

// errAside: the file that was put back is still in use without its log.
var errAside = errors.New("its file was replaced and put back; queries that began before must end first")

// look returns the file that has the name now. A missing one isn't created, a link isn't followed.
func (f *sqliteDB) look() (fileStat, error) {
	now, err := lstat(f.fullPath)
	if err != nil {
		return fileStat{}, because(ErrTenantUnavailable, fmt.Errorf("its file: %w", err))
	}
	if !now.regular {
		return fileStat{}, because(ErrTenantUnavailable, errors.New("its file is not a regular file"))
	}
	return now, nil
}

// inPlace returns an error unless the connection's file still has the name.
func (c *fileConn) inPlace() error {
	now, err := c.of.look()
	if err == nil && !now.same(c.file.id) {
		err = because(ErrTenantUnavailable, errMoved)
	}
	return err
}

// written is inPlace after a write, before that is reported.
func (c *fileConn) written() error {
	err := c.inPlace()
	if err == nil && !c.logged { // a new file has a log since its first write
		c.of.opening.Lock()
		c.of.noteLogs(c.file)
		c.of.opening.Unlock()
		c.logged = true
	}
	return err
}

// noteLogs notes the logs of a file that has the name. The caller holds f.opening.
func (f *sqliteDB) noteLogs(file *openFile) {
	for i, name := range logNames {
		file.logs[i] = idOf(f.fullPath + name)
	}
}

// leftovers returns the names of a file's logs if the file lost its own. The caller holds f.opening.
func (f *sqliteDB) leftovers(file *openFile) (names []string) {
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

// fileStat is what is told of a file without following a link.
type fileStat struct {
	fileID
	regular     bool
	permissions fs.FileMode
}

// idOf returns the file that has the name; zero where none has.
func idOf(name string) fileID {
	now, err := lstat(name)
	if err != nil {
		return fileID{}
	}
	return now.fileID
}

// matchModes gives the file's logs its permissions, as SQLite does when it makes them: those that were made
// while the file was read-only are so too. The caller holds f.opening.
func (f *sqliteDB) matchModes(file fileStat) {
	for _, name := range logNames {
		name = f.fullPath + name
		if log, err := lstat(name); err == nil && log.regular && log.permissions != file.permissions {
			_ = os.Chmod(name, file.permissions) // where it can't be done, writes fail and say so
		}
	}
}

// setAside renames the log of a file that lost its name, so that SQLite doesn't apply it to the file that has
// the name now. The log holds what was committed last to the old file, so it is never deleted. Another
// process may do the same, and begin a new log: the folder is locked meanwhile. The caller holds f.opening.
func (f *sqliteDB) setAside() error {
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

// Close closes the connection. The last one to a file that lost its name first merges the log into that file,
// wherever it is, and leaves the log aside. (SQLite itself neither merges nor deletes the log of such a file
// when it closes.)
func (c *fileConn) Close() error {
	f := c.of
	f.opening.Lock()
	defer f.opening.Unlock()
	var err error
	if f.users(c.file) == 1 && (c.file.aside.Load() || c.inPlace() != nil) {
		_, _ = c.ExecContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)", nil)
		err = f.setAside()
	}
	f.conns = slices.DeleteFunc(f.conns, func(other *fileConn) bool { return other == c })
	c.forget()
	return errors.Join(err, c.sqliteConn.Close())
}

// dropStale closes the idle connections to another file than the one that has the name; all for none.
func (f *sqliteDB) dropStale(now fileID) {
	for _, h := range f.handles() {
		h.mu.Lock()
		var stale []*fileConn
		h.idle = slices.DeleteFunc(h.idle, func(c *fileConn) bool {
			if c.serves(now) {
				return false
			}
			stale = append(stale, c)
			return true
		})
		h.mu.Unlock()
		for _, c := range stale {
			_ = c.Close()
		}
	}
}

// serves reports whether the connection may be used for the file that has the name.
func (c *fileConn) serves(now fileID) bool {
	return !c.file.aside.Load() && now.same(c.file.id)
}

// users counts the connections to a file. The caller holds f.opening.
func (f *sqliteDB) users(file *openFile) (n int) {
	for _, c := range f.conns {
		if c.file == file {
			n++
		}
	}
	return n
}
