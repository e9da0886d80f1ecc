package tenantdb

import (
	"context"
	"database/sql/driver"
	"net/url"
	"time"

	"modernc.org/sqlite"
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
}

// fileConn is a connection to a tenant's file, with its guard.
type fileConn struct {
	sqliteConn
	guard sqliteGuard
}

// What connections are opened with. A reader can't write, whatever its statements; a session may change the schema's table.
const (
	everyOption   = "_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_time_format=sqlite&"
	writingOption = everyOption + "mode=rw&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_txlock=immediate"
	sessionOption = writingOption
	writerOption  = writingOption + "&_defensive=1"
	readerOption  = everyOption + "mode=ro&_defensive=1&_pragma=query_only(1)"
)

// dial opens a connection to the file, never creating one. Nothing in the path is read as a parameter.
func (f *sqliteDB) dial(ctx context.Context, option string) (*fileConn, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	connector, err := sqlite.NewConnector((&url.URL{Scheme: "file", OmitHost: true, Path: f.fullPath()}).String() + "?" + option)
	if err != nil {
		return nil, err
	}
	opened, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	conn := &fileConn{sqliteConn: opened.(sqliteConn)}
	if err := conn.RegisterAuthorizer(conn.guard.authorize); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// sound reports whether the connection is as it was when it was new, so that the next borrower may have it.
func (c *fileConn) sound() bool {
	g := &c.guard
	if g.session || g.changed || !c.IsValid() || g.began && c.inTransaction() {
		return false
	}
	*g = sqliteGuard{}
	return true
}

// inTransaction reports whether a borrower left a transaction open, as by a BEGIN of its own: then a second one is refused.
func (c *fileConn) inTransaction() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.ExecContext(ctx, "BEGIN DEFERRED", nil); err != nil {
		return true
	}
	_, err := c.ExecContext(ctx, "ROLLBACK", nil)
	return err != nil
}
