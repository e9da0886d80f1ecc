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

// Parameters of connections. _busy_timeout is how many milliseconds a connection waits for another process's
// lock. With recursive_triggers OR REPLACE fires DELETE triggers.
const (
	everyConn  = "_busy_timeout=5000&_foreign_keys=1&_dqs=0&_pragma=recursive_triggers(1)"
	writerConn = everyConn + "&_txlock=immediate&_synchronous=NORMAL"
	readerConn = everyConn + "&_query_only=1"
)

// openSQLite creates the file if there is none, upgrades the schema and opens the pools.
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
	// A database in memory lives as long as one of its connections. This one stays open.
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

// useWAL lets readers and the writer work at the same time. The mode is stored in the file. Two processes
// that change it at once collide without waiting for each other, hence the retry.
func (db *DB) useWAL(ctx context.Context) error {
	if db.origin.path == "" {
		return nil
	}
	return retry(ctx, func() error {
		_, err := db.write.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		return translate(ctx, err, asReported)
	})
}

// pool opens a pool, which Close closes.
func (db *DB) pool(dsn string, limit int) (*sql.DB, error) {
	connector, err := sqlitedriver.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return db.bounded(sql.OpenDB(connector), limit), nil
}

// name returns the start of a DSN. It escapes the path, so that no part of it becomes a parameter.
func (o *origin) name() string {
	if o.path == "" {
		// SQLite's memdb shares a database whose name begins with "/" within the process.
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

// create creates an empty file that only this user can read, and reports whether it did. With mustExist it
// creates none.
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

// usable returns an error if the existing file can't be written.
func (o *origin) usable() error {
	info, err := os.Stat(o.path)
	if err == nil && !info.Mode().IsRegular() {
		return badFile("it isn't a regular file")
	}
	file, err := os.OpenFile(o.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return badFile("it doesn't exist; `tenantdb init`, or any Open without NoUpgrade, creates it")
	}
	if err != nil {
		return badFile("it can't be written; change its permissions")
	}
	return file.Close()
}

// removeEmpty removes the file that create created, if nothing was written to it.
func (o *origin) removeEmpty() {
	if info, err := os.Stat(o.path); err == nil && info.Size() == 0 {
		_ = os.Remove(o.path)
	}
}

func badFile(reason string) error {
	return unavailable("url.path", "the file can't be used: "+reason)
}

// fileError converts a failure to open into one about the file.
func fileError(ctx context.Context, err error) error {
	var own *FieldError
	var driver *sqlitedriver.Error
	if errors.As(err, &driver) && driver.Code()&0xff == sqlitecode.SQLITE_NOTADB {
		return badFile("it isn't a SQLite database; name another file, or remove it")
	}
	err = translate(ctx, err, asReported)
	if errors.As(err, &own) || errors.Is(err, context.Canceled) {
		return err
	}
	return badFile(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "hostdb: "), "unavailable: "))
}
