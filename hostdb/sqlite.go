package hostdb

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	sqlitedriver "modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"
)

// The parameters of a connection. busy_timeout is how many milliseconds it waits for another process's lock;
// recursive triggers make OR REPLACE fire DELETE triggers.
const (
	everyConn  = "_busy_timeout=5000&_foreign_keys=1&_dqs=0&_pragma=recursive_triggers(1)"
	writerConn = everyConn + "&_txlock=immediate&_synchronous=NORMAL"
	readerConn = everyConn + "&_query_only=1"
)

// openSQLite makes the file where there is none, upgrades the schema and sets the pools up.
func (db *DB) openSQLite(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return translate(ctx, err, asReported)
	}
	made, err := db.origin.create(db.config.NoUpgrade)
	if err != nil {
		return err
	}
	if err := db.startSQLite(ctx); err != nil {
		_ = db.Close()
		if made {
			db.origin.removeEmpty()
		}
		return fileError(ctx, err)
	}
	return nil
}

func (db *DB) startSQLite(ctx context.Context) error {
	name := db.origin.name()
	db.origin.dsn = name
	anchor, err := db.pool(name+everyConn, 1)
	if err != nil {
		return err
	}
	// In memory the database lives as long as one connection, which this is.
	if err := anchor.PingContext(ctx); err != nil {
		return err
	}
	connector, err := sqlitedriver.NewConnector(name + writerConn)
	if err != nil {
		return err
	}
	if err := db.migrate(ctx, connector); err != nil {
		return err
	}
	if db.write, err = db.pool(name+writerConn, 1); err != nil {
		return err
	}
	if err := db.useWAL(ctx); err != nil {
		return err
	}
	if db.lookups, err = db.pool(name+readerConn, db.config.LookupConns); err != nil {
		return err
	}
	if db.read, err = db.pool(name+readerConn, cmp.Or(db.config.MaxConns, 4)); err != nil ||
		db.origin.path == "" {
		return err
	}
	db.origin.file, err = os.Stat(db.origin.path)
	return err
}

// useWAL lets readers and the writer work at the same time. The mode stays with the file. Two processes that
// change it at once collide without waiting for each other.
func (db *DB) useWAL(ctx context.Context) error {
	if db.origin.path == "" {
		return nil
	}
	return retry(ctx, func() error {
		_, err := db.write.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		return translate(ctx, err, asReported)
	})
}

// pool opens a pool of connections that Close will close.
func (db *DB) pool(dsn string, limit int) (*sql.DB, error) {
	connector, err := sqlitedriver.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return db.bounded(sql.OpenDB(connector), limit), nil
}

// name is the start of a DSN, in which nothing of the path can become a parameter.
func (o *origin) name() string {
	if o.path == "" {
		// SQLite's memdb shares a name that begins with "/" within the process.
		return "file:/hostdb-" + NewID() + "?vfs=memdb&"
	}
	var b strings.Builder
	b.WriteString("file:")
	for i := range len(o.path) {
		switch c := o.path[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			strings.IndexByte("/._-~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String() + "?"
}

// create makes an empty file that only this user can read, and reports whether there was none. With mustExist
// there has to be one.
func (o *origin) create(mustExist bool) (bool, error) {
	if o.path == "" {
		return false, nil
	}
	if mustExist {
		return false, o.usable()
	}
	file, err := os.OpenFile(o.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		return true, file.Close()
	case errors.Is(err, fs.ErrExist):
		return false, o.usable()
	case errors.Is(err, fs.ErrNotExist):
		return false, badFile("its directory does not exist; create it")
	case errors.Is(err, fs.ErrPermission):
		return false, badFile("it can't be created; make the directory writable")
	}
	return false, badFile("it can't be created; check the path and the disk")
}

// usable refuses what is there and can't be written.
func (o *origin) usable() error {
	info, err := os.Stat(o.path)
	if err == nil && !info.Mode().IsRegular() {
		return badFile("it is no regular file; name one")
	}
	file, err := os.OpenFile(o.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return badFile("there is none; `tenantdb init`, or any Open without NoUpgrade, makes it")
	}
	if err != nil {
		return badFile("it can't be written; change its permissions")
	}
	return file.Close()
}

// removeEmpty removes a file that create made and nothing was written to.
func (o *origin) removeEmpty() {
	if info, err := os.Stat(o.path); err == nil && info.Size() == 0 {
		_ = os.Remove(o.path)
	}
}

func badFile(reason string) error {
	return unavailable("url.path", "the file can't be used: "+reason)
}

// fileError says that a failure to open is about the file.
func fileError(ctx context.Context, err error) error {
	var own *FieldError
	var driver *sqlitedriver.Error
	if errors.As(err, &driver) && driver.Code()&0xff == sqlitecode.SQLITE_NOTADB {
		return badFile("it is no SQLite database; name another, or remove it")
	}
	err = translate(ctx, err, asReported)
	if errors.As(err, &own) || errors.Is(err, context.Canceled) {
		return err
	}
	return badFile(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "hostdb: "), "unavailable: "))
}
