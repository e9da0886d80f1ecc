package fleet

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// templatePrefix is the prefix of the names of all templates and their roles.
const templatePrefix = "tenantdb_template_"

// builderSuffix is the length of what a builder's name adds to its template's: "_" and 8 hex digits.
const builderSuffix = 9

// template is a database with the newest schema. Tenants' databases are copies of it. A hash of the
// migrations is part of its name, so other migrations have another template. A finished template accepts no
// connections, since only a database without connections can be copied.
//
// If tenants have their own roles, a role without further rights runs the template's migrations: the builder.
// In a copy, the tenant's role becomes the owner of what the builder owns. The template itself has another
// owner, since REASSIGN OWNED would give the template away too.
type template struct {
	base   *dburl.URL
	hosts  *pghosts.Hosts
	schema schema
	roles  bool // it is for tenants with their own roles
	logger *slog.Logger

	mu    sync.Mutex     // guards ready; locked while the template is looked up and made
	ready *readyTemplate // nil until the template is known to exist
}

// readyTemplate is a template that can be copied.
type readyTemplate struct {
	name       string
	oid        uint32
	properties []alteration // what CREATE DATABASE doesn't copy
	bound      bool         // see isBound
}

// names are the names of a template and its roles.
type names struct {
	prefix string // of this product's templates for the same role of the server and the same kind of tenants
	name   string
	owner  string
}

// copy creates a tenant's database as a copy of the template. If the template can't be copied, copy makes it
// again, once. It returns nil if the template can't be used for tenants with roles. A duplicate database is
// an error.
func (t *template) copy(ctx context.Context, conn *pgx.Conn, tenantID,
	options string) (*readyTemplate, error) {
	broken := uint32(0)
	for {
		ready, err := t.ensure(ctx, conn, broken)
		if err != nil {
			return nil, fmt.Errorf("make the template: %w", err)
		}
		if ready.bound {
			return nil, nil
		}
		from := options + " TEMPLATE " + pgx.Identifier{ready.name}.Sanitize()
		if majorVersion(conn) >= 15 {
			from += " STRATEGY wal_log" // file_copy, the only one before, costs two checkpoints
		}
		err = createDatabase(ctx, conn, tenantID, from)
		if err != nil && sqlstate.Of(err) != sqlstate.DuplicateDatabase {
			err = fmt.Errorf("copy the template %s: %w", ready.name, err)
		}
		if broken != 0 || !isTemplatesFault(err) {
			return ready, err
		}
		t.logger.WarnContext(ctx, "the template can't be copied and is made again", "template", ready.name,
			"error", err.Error())
		broken = ready.oid
	}
}

// isTemplatesFault reports whether a new template may help. The usual causes are a dropped template, and
// collations of the operating system that have changed, which PostgreSQL reports as an internal error.
func isTemplatesFault(err error) bool {
	code := sqlstate.Of(err)
	switch code {
	case sqlstate.InvalidCatalogName, sqlstate.ObjectNotInPrerequisiteState, sqlstate.UndefinedFile:
		return true
	}
	return strings.HasPrefix(code, "XX") // the class of internal errors
}

// ensure returns the template, and makes it if it doesn't exist or is the broken one. An advisory lock keeps
// two processes from making it at once.
func (t *template) ensure(ctx context.Context, conn *pgx.Conn, broken uint32) (*readyTemplate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ready != nil && t.ready.oid != broken {
		return t.ready, nil
	}
	n := t.names(conn.Config().User)
	unlock, err := n.lock(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer unlock()
	oid, err := closedDatabase(ctx, conn, n.name)
	if err == nil && (oid == 0 || oid == broken) {
		if err = t.make(ctx, conn, n); err == nil {
			t.dropOlder(ctx, conn, n)
			oid, err = closedDatabase(ctx, conn, n.name)
		}
	}
	if err != nil {
		return nil, err
	}
	ready := &readyTemplate{name: n.name, oid: oid}
	if ready.properties, err = propertiesOf(ctx, conn, oid); err != nil {
		return nil, err
	}
	if ready.bound, err = isBound(ctx, conn, oid); err != nil {
		return nil, err
	}
	if ready.bound {
		t.logger.WarnContext(ctx, "the template names its role in a policy, a default privilege, "+
			"a user mapping or a grant on another role's object: each new database is migrated by itself",
			"template", n.name)
	}
	t.ready = ready
	return ready, nil
}

// lock keeps others from making or dropping these templates until the returned function is called.
func (n names) lock(ctx context.Context, conn *pgx.Conn) (unlock func(), err error) {
	key := lockKey(n.prefix)
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return nil, err
	}
	return func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", key); err != nil {
			closeAdmin(conn) // this releases the lock too
		}
	}, nil
}

// closedDatabase returns the oid of a finished template, or 0 if there is none.
func closedDatabase(ctx context.Context, conn *pgx.Conn, name string) (oid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce(max(oid::bigint), 0) FROM pg_database"+
		" WHERE datname = $1 AND NOT datallowconn AND datistemplate", name).Scan(&oid)
	return oid, err
}

// names makes the names. They contain a hash of the database that the fleet connects to, which identifies the
// product, and of the role that makes the template and owns its content.
func (t *template) names(user string) names {
	product := sha256.Sum256([]byte("/" + t.base.Database()))
	kind := sha256.Sum256(fmt.Appendf(nil, "%t %s", t.roles, user))
	owner := templatePrefix + hex.EncodeToString(product[:4]) + "_" + hex.EncodeToString(kind[:2])
	return names{owner: owner, prefix: owner + "_", name: owner + "_" + t.schema.content}
}

// lockKey returns the number of an advisory lock.
func lockKey(text string) int64 {
	sum := sha256.Sum256([]byte("tenantdb " + text))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// make makes the template. It replaces a broken one, or one that a crash left unfinished.
func (t *template) make(ctx context.Context, conn *pgx.Conn, n names) error {
	if t.roles {
		return t.makeWithRoles(ctx, conn, n)
	}
	if err := t.drop(ctx, conn, n, n.name); err != nil {
		return err
	}
	ident := pgx.Identifier{n.name}.Sanitize()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+ident+" TEMPLATE template0"); err != nil {
		return err
	}
	if err := t.migrate(ctx, n.name, nil); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "ALTER DATABASE "+ident+closeTemplate)
	return err
}

// closeTemplate finishes a template.
const closeTemplate = " WITH ALLOW_CONNECTIONS false IS_TEMPLATE true"

// makeWithRoles makes a template for tenants with their own roles, with a new builder. While the builder runs
// the migrations, it has the rights of the database's owner.
func (t *template) makeWithRoles(ctx context.Context, conn *pgx.Conn, n names) error {
	owner, ident := pgx.Identifier{n.owner}.Sanitize(), pgx.Identifier{n.name}.Sanitize()
	if _, err := conn.Exec(ctx, "CREATE ROLE "+owner); err != nil &&
		sqlstate.Of(err) != sqlstate.DuplicateObject {
		return fmt.Errorf("make its owner: %w", err)
	}
	if err := joinRole(ctx, conn, owner); err != nil {
		return fmt.Errorf("join its owner: %w", err)
	}
	if err := t.drop(ctx, conn, n, n.name); err != nil {
		return err
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	name, password := n.name+"_"+hex.EncodeToString(random[:]), newPassword()
	builder := pgx.Identifier{name}.Sanitize()
	if err := makeRole(ctx, conn, builder, password); err != nil {
		return fmt.Errorf("make its role: %w", err)
	}
	if _, err := conn.Exec(ctx, "GRANT "+owner+" TO "+builder); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "CREATE DATABASE "+ident+" OWNER "+owner+
		" TEMPLATE template0 ALLOW_CONNECTIONS false")
	if err != nil {
		return err
	}
	if err := openToOwner(ctx, conn, owner, ident); err != nil {
		return err
	}
	if err := t.migrate(ctx, n.name, &dburl.Role{Name: name, Password: password}); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "REVOKE "+owner+" FROM "+builder+"; ALTER ROLE "+builder+" NOLOGIN PASSWORD NULL")
	if err != nil {
		return err
	}
	return asRole(ctx, conn, owner, func() error {
		_, err := conn.Exec(ctx, "ALTER DATABASE "+ident+closeTemplate)
		return err
	})
}

// migrate runs the migrations on the unfinished template, as a role; nil is the server's own.
func (t *template) migrate(ctx context.Context, name string, as *dburl.Role) error {
	address, err := dburl.Parse(t.base.With(name, as))
	if err != nil {
		return err
	}
	dialer := pghosts.NewDialer(t.hosts, address.Config())
	defer dialer.Stop()
	db := sql.OpenDB(dialer)
	defer db.Close()
	_, err = t.schema.migrateToLatest(ctx, db, goose.DialectPostgres)
	return err
}

// dropOlder drops this product's templates, except this one and the one before, which processes of the
// previous release may still use. A template that is being copied stays until the next time.
func (t *template) dropOlder(ctx context.Context, conn *pgx.Conn, n names) {
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database"+
		" WHERE starts_with(datname, $1) AND datname <> $2 ORDER BY oid DESC OFFSET 1", n.prefix, n.name)
	if err != nil {
		return
	}
	older, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return
	}
	for _, name := range older {
		_ = t.drop(ctx, conn, n, name)
	}
}

// DropTemplates drops the templates that this fleet, or one with other migrations, has left on
// [Config.Server], and their roles. The next tenant to be provisioned has a template made again. It is for
// the end of a product, or of a test. On SQLite, and without a template, it does nothing.
func (f *Fleet) DropTemplates(ctx context.Context) error {
	server, ok := f.server.(*postgresServer)
	if !ok || server.template == nil {
		return nil
	}
	if err := server.admins.use(ctx, func(conn *pgx.Conn) error {
		return server.template.dropAll(ctx, conn)
	}); err != nil {
		return fmt.Errorf("fleet: drop the templates: %w", err)
	}
	return nil
}

// dropAll drops this product's templates and their roles.
func (t *template) dropAll(ctx context.Context, conn *pgx.Conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready = nil
	n := t.names(conn.Config().User)
	unlock, err := n.lock(ctx, conn)
	if err != nil {
		return err
	}
	defer unlock()
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", n.prefix)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range all {
		err = errors.Join(err, t.drop(ctx, conn, n, name))
	}
	if err == nil && t.roles {
		_, err = conn.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{n.owner}.Sanitize())
	}
	return err
}

// drop drops a template, finished or not, and builders that own nothing any more. The builder of a copy that
// wasn't reassigned yet stays.
func (t *template) drop(ctx context.Context, conn *pgx.Conn, n names, name string) error {
	remove := func() error {
		ident := pgx.Identifier{name}.Sanitize()
		var closed bool
		err := conn.QueryRow(ctx, "SELECT datistemplate FROM pg_database WHERE datname = $1",
			name).Scan(&closed)
		if closed { // a database whose drop was interrupted is no template, and can't be altered
			_, err = conn.Exec(ctx, "ALTER DATABASE "+ident+" WITH IS_TEMPLATE false")
		}
		if err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+ident+" WITH (FORCE)")
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	}
	if !t.roles {
		return remove()
	}
	if err := asRole(ctx, conn, pgx.Identifier{n.owner}.Sanitize(), remove); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)"+
		" AND NOT EXISTS (SELECT FROM pg_shdepend"+
		" WHERE refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid AND deptype = 'o')", n.prefix)
	if err != nil {
		return err
	}
	builders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, builder := range builders { // a role that something else refers to stays
		_, _ = conn.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{builder}.Sanitize())
	}
	return err
}
