package tenantdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteConn is what the driver's connections are.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
	sqlite.AuthorizerRegisterer
	IsReadOnly(schema string) (bool, error)
}

// fileConn is a connection to a tenant's file, with its guard.
type fileConn struct {
	sqliteConn
	of      *sqliteDB
	file    *openFile // shared by the connections to it
	logged  bool      // its log is known since a write
	guard   sqliteGuard
	kept    []*keptStatement // the one that was used last is the last
	reads   bool             // it is a reader's
	spoiled bool             // an error told of the file, or it can't be written: the next borrower gets a new connection
}

// handlesPerConn is how many file handles a connection needs: for the file, its log and the log's index.
const handlesPerConn = 3

// What connections are opened with. A reader can't write, whatever its statements; a session may change the
// schema's table.
const (
	everyOption   = "_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_time_format=sqlite&"
	writingOption = everyOption + "mode=rw&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_txlock=immediate"
	sessionOption = writingOption
	writerOption  = writingOption + "&_defensive=1"
	readerOption  = everyOption + "mode=ro&_defensive=1&_pragma=query_only(1)"
)

// dial opens a connection to the file, never creating one. Nothing in the path is read as a parameter.
func (f *sqliteDB) dial(ctx context.Context, option string) (*fileConn, error) {
	connector, err := sqlite.NewConnector((&url.URL{Scheme: "file", OmitHost: true, Path: f.fullPath}).String() + "?" + option)
	if err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	f.opening.Lock()
	defer f.opening.Unlock()
	before, err := f.look()
	if err != nil {
		return nil, err
	}
	if err := f.setAside(); err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	file := f.fileOf(before.fileID)
	if file.aside.Load() {
		return nil, because(ErrTenantUnavailable, errAside)
	}
	if option != readerOption {
		f.matchModes(before)
	}
	opened, err := connector.Connect(ctx)
	if err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	conn := &fileConn{sqliteConn: opened.(sqliteConn), of: f, file: file, reads: option == readerOption}
	readOnly, err := conn.IsReadOnly("main")
	if err == nil {
		conn.spoiled = readOnly && !conn.reads
		err = conn.RegisterAuthorizer(conn.guard.authorize)
	}
	if err = errors.Join(err, conn.inPlace()); err != nil { // else it has opened that file, and no other
		_ = conn.sqliteConn.Close()
		return nil, because(ErrTenantUnavailable, err)
	}
	f.noteLogs(conn.file)
	f.conns = append(f.conns, conn)
	return conn, nil
}

// outOfHandles reports whether the process couldn't open as many files as a connection needs. It tries with
// the folder: to close the file itself would end SQLite's locks on it (sqlite.org/howtocorrupt.html, 2.2).
func (f *sqliteDB) outOfHandles() bool {
	for range handlesPerConn {
		folder, err := os.Open(filepath.Dir(f.fullPath))
		if err != nil {
			return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
		}
		defer folder.Close()
	}
	return false
}

// fileOf returns the file as other connections have it open, else a new one. The caller holds f.opening.
func (f *sqliteDB) fileOf(id fileID) *openFile {
	for _, c := range f.conns {
		if id.same(c.file.id) {
			return c.file
		}
	}
	return &openFile{id: id}
}

// failed marks what an error of a statement says of the connection, and tells whose fault it is.
func (c *fileConn) failed(err error) error {
	err = c.guard.explain(err)
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch code := failure.Code(); code & 0xff {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN:
		c.spoiled = true
	case sqlite3.SQLITE_READONLY:
		if c.reads && code == sqlite3.SQLITE_READONLY {
			return &errConfined{errReader, err}
		}
		c.spoiled = true
	}
	return err
}

// sound reports whether the connection is as it was when it was new, so that the next borrower may have it.
func (c *fileConn) sound() bool {
	g := &c.guard
	if c.spoiled || g.session || g.changed || !c.IsValid() || g.began && c.inTransaction() {
		return false
	}
	*g = sqliteGuard{}
	return true
}

// inTransaction reports whether a borrower left a transaction open, as by a BEGIN of its own: then a second
// one is refused.
func (c *fileConn) inTransaction() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.ExecContext(ctx, "BEGIN DEFERRED", nil); err != nil {
		return true
	}
	_, err := c.ExecContext(ctx, "ROLLBACK", nil)
	return err != nil
}
