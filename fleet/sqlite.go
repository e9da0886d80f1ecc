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
	"sync"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver, for the template

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// sqliteServer keeps each database in a file of its own.
type sqliteServer struct {
	pool     *tenantdb.Pool
	schema   schema
	template bool

	mu    sync.Mutex // guards image; held while it is made
	image []byte     // a file with the newest schema, which new ones are copies of
}

func (s *sqliteServer) address(tenantID string) (hostdb.Secret, error) {
	return hostdb.Secret("sqlite:" + fileOf(tenantID)), nil
}

func (s *sqliteServer) owns(tenant *hostdb.TenantCatalog) bool {
	return tenant.DBURL == hostdb.Secret("sqlite:"+fileOf(tenant.ID))
}

// fileOf is the name of a tenant's file.
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

// create writes the file beside its place and links it there, so that a half-written one is never found.
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
	image, err := s.copied(ctx)
	if err != nil {
		return unknown, err
	}
	if err := writeFile(root, name+".new", image); err != nil {
		return unknown, err
	}
	err = root.Link(name+".new", name) // which replaces nothing: meanwhile another process may have taken over, and opened the tenant
	if err := errors.Join(errBut(err, fs.ErrExist), errBut(root.Remove(name+".new"), fs.ErrNotExist)); err != nil {
		return unknown, err
	}
	if err != nil || !s.template {
		return unknown, nil
	}
	return s.schema.latest(), nil
}

// errBut returns an error unless it is that one.
func errBut(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// writeFile writes a new file, and has it on the disk when it returns. What another process left is removed,
// not written to: that one may yet link it to its place.
func writeFile(root *os.Root, name string, content []byte) error {
	if err := errBut(root.Remove(name), fs.ErrNotExist); err != nil {
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

// copied returns what a new file holds: nothing without a template.
func (s *sqliteServer) copied(ctx context.Context) ([]byte, error) {
	if !s.template {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.image == nil {
		image, err := s.makeImage(ctx)
		if err != nil {
			return nil, fmt.Errorf("make the template: %w", err)
		}
		s.image = image
	}
	return s.image, nil
}

// makeImage migrates a file in a folder of its own and reads it.
func (s *sqliteServer) makeImage(ctx context.Context) (image []byte, err error) {
	dir, err := os.MkdirTemp("", "tenantdb-template-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "template.db")
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=foreign_keys(1)&_time_format=sqlite&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = s.schema.bring(ctx, db, goose.DialectSQLite3)
	if err = errors.Join(err, db.Close()); err != nil { // the last connection merges the write-ahead log into the file
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
	for _, suffix := range []string{"", "-wal", "-shm", ".new"} { // the database first: without it nobody makes the others anew
		if err := errBut(root.Remove(name+suffix), fs.ErrNotExist); err != nil {
			return err
		}
	}
	return nil
}
