package sqlitedb

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

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// driverConn is what the driver's connections are.
type driverConn interface {
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
	driverConn
	db       *DB
	file     *openFile // shared by the connections to it
	logKnown bool      // the file's log was recorded after a write
	guard    guard
	cache    []*compiled // the statement that was used last is the last
	reads    bool        // the connection is a reader's
	broken   bool        // the file had an error or can't be written: the next borrower gets a new connection
}

// handlesPerConn is how many file handles a connection needs: for the file, its log and the log's index.
const handlesPerConn = 3

// The options of connections. A reader can't write, whatever its statements. A session may change the
// schema's table.
const (
	everyOption   = "_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_time_format=sqlite&"
	sessionOption = everyOption +
		"mode=rw&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_txlock=immediate"
	writerOption = sessionOption + "&_defensive=1"
	readerOption = everyOption + "mode=ro&_defensive=1&_pragma=query_only(1)"
)

// connect opens a connection to the file. It never creates the file, and reads nothing in the path as a
// parameter.
func (f *DB) connect(ctx context.Context, option string) (*fileConn, error) {
	name := &url.URL{Scheme: "file", OmitHost: true, Path: f.fullPath}
	connector, err := sqlite.NewConnector(name.String() + "?" + option)
	if err != nil {
		return nil, refusal.WithCause(refusal.TenantUnavailable, err)
	}
	f.opening.Lock()
	defer f.opening.Unlock()
	before, err := f.stat()
	if err != nil {
		return nil, err
	}
	if err := f.setLogsAside(); err != nil {
		return nil, refusal.WithCause(refusal.TenantUnavailable, err)
	}
	file := f.fileOf(before.fileID)
	if file.aside.Load() {
		return nil, refusal.WithCause(refusal.TenantUnavailable, errAside)
	}
	if option != readerOption {
		f.matchModes(before)
	}
	opened, err := connector.Connect(ctx)
	if err != nil {
		return nil, refusal.WithCause(refusal.TenantUnavailable, err)
	}
	conn := &fileConn{driverConn: opened.(driverConn), db: f, file: file, reads: option == readerOption}
	readOnly, err := conn.IsReadOnly("main")
	if err == nil {
		conn.broken = readOnly && !conn.reads
		err = conn.RegisterAuthorizer(conn.guard.authorize)
	}
	if err = errors.Join(err, conn.inPlace()); err != nil { // else it has opened that file and no other
		_ = conn.driverConn.Close()
		return nil, refusal.WithCause(refusal.TenantUnavailable, err)
	}
	f.recordLogs(file)
	f.conns = append(f.conns, conn)
	return conn, nil
}

// outOfHandles reports whether the process can't open as many files as a connection needs. It tries with the
// folder, since closing the file itself would end SQLite's locks on it (sqlite.org/howtocorrupt.html, 2.2).
func (f *DB) outOfHandles() bool {
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
func (f *DB) fileOf(id fileID) *openFile {
	for _, c := range f.conns {
		if id.same(c.file.id) {
			return c.file
		}
	}
	return &openFile{id: id}
}

// failed notes what a statement's error tells of the connection. It explains the error if the guard or the
// reader's option is its reason.
func (c *fileConn) failed(err error) error {
	err = c.guard.explain(err)
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch code := failure.Code(); code & 0xff {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN:
		c.broken = true
	case sqlite3.SQLITE_READONLY:
		if c.reads && code == sqlite3.SQLITE_READONLY {
			return &refusal.Misuse{Reason: errReader, Err: err}
		}
		c.broken = true
	}
	return err
}

// reusable reports whether the connection is as it was when it was new. The next borrower may have it then.
func (c *fileConn) reusable() bool {
	g := &c.guard
	if c.broken || g.session || g.changed || !c.IsValid() || g.began && c.inTransaction() {
		return false
	}
	*g = guard{}
	return true
}

// inTransaction reports whether a borrower left a transaction open, as with a BEGIN of its own. SQLite
// refuses a second one then.
func (c *fileConn) inTransaction() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.ExecContext(ctx, "BEGIN DEFERRED", nil); err != nil {
		return true
	}
	_, err := c.ExecContext(ctx, "ROLLBACK", nil)
	return err != nil
}
