package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver, for the template

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/sqliteimage"
)

// sqliteServer keeps each database in its own file.
type sqliteServer struct {
	pool     *tenantdb.Pool
	schema   schema
	template bool
	images   *sqliteimage.Images // has the content of a new file, with the newest schema
}

func (s *sqliteServer) newURL(tenantID string) (hostdb.Secret, error) {
	return hostdb.Secret("sqlite:" + fileOf(tenantID)), nil
}

func (s *sqliteServer) owns(tenant *hostdb.TenantCatalog) bool {
	return tenant.DBURL == hostdb.Secret("sqlite:"+fileOf(tenant.ID))
}

// fileOf returns the name of a tenant's file.
func fileOf(tenantID string) string { return tenantID + ".db" }

func (s *sqliteServer) list(context.Context) (ids []string, err error) {
	root, err := s.pool.SQLiteRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	files, err := fs.ReadDir(root.FS(), ".")
	for _, file := range files {
		if id, found := strings.CutSuffix(file.Name(), fileOf("")); found && hostdb.ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// create writes the file under another name and links it into place, so that a partial file is never used.
func (s *sqliteServer) create(ctx context.Context, tenant *hostdb.TenantCatalog) (int64, error) {
	root, err := s.pool.SQLiteRoot()
	if err != nil {
		return unknown, err
	}
	defer root.Close()
	name := fileOf(tenant.ID)
	if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return unknown, err
	}
	image, err := s.content(ctx)
	if err != nil {
		return unknown, err
	}
	if err := writeFile(root, name+".new", image); err != nil {
		return unknown, err
	}
	// Link doesn't replace a file: another process may have taken over and opened the tenant meanwhile.
	err = root.Link(name+".new", name)
	if err := errors.Join(ignore(err, fs.ErrExist),
		ignore(root.Remove(name+".new"), fs.ErrNotExist)); err != nil {
		return unknown, err
	}
	if err != nil || !s.template {
		return unknown, nil
	}
	return s.schema.latest(), nil
}

// ignore returns err, or nil if it is the harmless error.
func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// writeFile writes a new file and syncs it. A file that another process left is removed and not overwritten,
// since that process may still link it into place.
func writeFile(root *os.Root, name string, content []byte) error {
	if err := ignore(root.Remove(name), fs.ErrNotExist); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = file.Write(content); err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// content returns the content of a new file. It is empty without a template.
func (s *sqliteServer) content(ctx context.Context) ([]byte, error) {
	if !s.template {
		return nil, nil
	}
	image, err := s.images.Get(s.schema.content, func() ([]byte, error) { return s.makeImage(ctx) })
	if err != nil {
		return nil, fmt.Errorf("make the template: %w", err)
	}
	return image, nil
}

// makeImage migrates a file in a temporary directory and returns its content.
func (s *sqliteServer) makeImage(ctx context.Context) (image []byte, err error) {
	dir, err := os.MkdirTemp("", "tenantdb-template-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "template.db")
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)"+
		"&_pragma=foreign_keys(1)&_time_format=sqlite&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = s.schema.migrateToLatest(ctx, db, goose.DialectSQLite3)
	// Close merges the write-ahead log into the file.
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

func (s *sqliteServer) drop(_ context.Context, tenant *hostdb.TenantCatalog) error {
	root, err := s.pool.SQLiteRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	name := fileOf(tenant.ID)
	// without the first, nobody recreates the others
	for _, suffix := range []string{"", "-wal", "-shm", ".new"} {
		if err := ignore(root.Remove(name+suffix), fs.ErrNotExist); err != nil {
			return err
		}
	}
	return nil
}
