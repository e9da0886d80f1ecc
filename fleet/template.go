package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// template is a database with the newest schema, of which tenants' databases are copies. It is named by the migrations, so that other
// ones have another, and closed to connections once it is finished: only a database without a session can be copied.
type template struct {
	base   *url.URL
	schema schema

	mu   sync.Mutex // guards name; held while the template is made
	name string     // "" until it is known to be there
}

// copy creates a tenant's database as a copy and returns its schema's version.
func (t *template) copy(ctx context.Context, conn *pgx.Conn, tenantID string) (int64, error) {
	for attempt := 0; ; attempt++ {
		name, err := t.ensure(ctx, conn)
		if err != nil {
			return unknown, fmt.Errorf("make the template: %w", err)
		}
		options := "TEMPLATE " + pgx.Identifier{name}.Sanitize()
		if majorVersion(conn) >= 15 {
			options += " STRATEGY wal_log" // the other way, and the only one before, is two checkpoints
		}
		err = createDatabase(ctx, conn, tenantID, options)
		if attempt == 0 && isPG(err, pgUnknownDatabase) { // somebody dropped the template
			t.forget(name)
			continue
		}
		if err != nil {
			return unknown, err
		}
		return t.schema.latest(), nil
	}
}

// forget has the template looked for again.
func (t *template) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.name == name {
		t.name = ""
	}
}

// ensure returns the template's name once it is there. An advisory lock keeps two processes from making it at once.
func (t *template) ensure(ctx context.Context, conn *pgx.Conn) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.name != "" {
		return t.name, nil
	}
	prefix, name := t.names()
	key := lockKey(prefix)
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return "", err
	}
	defer func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", key); err != nil {
			closeAdmin(conn) // ends the lock too
		}
	}()
	var finished bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND NOT datallowconn)", name).Scan(&finished); err != nil {
		return "", err
	}
	if !finished {
		if err := t.make(ctx, conn, name); err != nil {
			return "", err
		}
		dropOlder(ctx, conn, prefix, name)
	}
	t.name = name
	return name, nil
}

// names returns what all of this product's templates are called, and this one. The database that the fleet connects to stands for the product.
func (t *template) names() (prefix, name string) {
	product := sha256.Sum256([]byte(t.base.Path))
	prefix = "tenantdb_template_" + hex.EncodeToString(product[:4]) + "_"
	return prefix, prefix + t.schema.content
}

// lockKey is the number of an advisory lock.
func lockKey(text string) int64 {
	sum := sha256.Sum256([]byte("tenantdb " + text))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// make makes the template anew; one that a crash left unfinished is dropped.
func (t *template) make(ctx context.Context, conn *pgx.Conn, name string) error {
	ident := pgx.Identifier{name}.Sanitize()
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + ident + " WITH (FORCE)", "CREATE DATABASE " + ident + " TEMPLATE template0"} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	if err := t.migrate(ctx, name); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "ALTER DATABASE "+ident+" WITH ALLOW_CONNECTIONS false IS_TEMPLATE true")
	return err
}

// migrate brings the unfinished template to the newest version.
func (t *template) migrate(ctx context.Context, name string) error {
	u := *t.base
	u.Path = "/" + name
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	_, err = t.schema.bring(ctx, db, goose.DialectPostgres)
	return err
}

// dropOlder drops this product's templates but this one and the one before, which a process that is about to be replaced may still use.
// One that is being copied stays until the next time.
func dropOlder(ctx context.Context, conn *pgx.Conn, prefix, name string) {
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1) AND datname <> $2 ORDER BY oid DESC OFFSET 1", prefix, name)
	if err != nil {
		return
	}
	older, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return
	}
	for _, name := range older {
		_ = dropTemplate(ctx, conn, name)
	}
}

// dropTemplate drops a closed template.
func dropTemplate(ctx context.Context, conn *pgx.Conn, name string) error {
	ident := pgx.Identifier{name}.Sanitize()
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+ident+" WITH IS_TEMPLATE false"); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+ident+" WITH (FORCE)")
	return err
}
