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
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// templatePrefix begins the names of all templates, and of their roles.
const templatePrefix = "tenantdb_template_"

// lenderSuffix is how much longer a lender's name is than its template's: "_" and 8 hex digits.
const lenderSuffix = 9

// template is a database with the newest schema, of which tenants' databases are copies. It is named by the
// migrations, so that other ones have another, and closed to connections once it is finished: only a database
// without a session can be copied.
//
// Where tenants have roles of their own, the template is made as a tenant's database would be: a role without
// any rights, the lender, migrates it, so that a tenant's role can take over in the copy what is the lender's
// in the template. The template itself belongs to another role, the keeper, since REASSIGN OWNED would hand
// the template over as well.
type template struct {
	base   *dburl.URL
	hosts  *pghosts.Hosts
	schema schema
	roles  bool // it is for tenants with roles of their own
	logger *slog.Logger

	mu    sync.Mutex // guards found; held while the template is looked for and made
	found *finished  // nil until it is known to be there
}

// finished is a template that is there.
type finished struct {
	name   string
	oid    uint32
	extras []alteration // what CREATE DATABASE doesn't copy
	misfit bool         // a tenant's role can't take over all that is in a copy
}

// names are what a template and its roles are called.
type names struct {
	prefix string // of all this product's templates for the same role of the server and the same kind of tenants
	name   string
	keeper string
}

// copy creates a tenant's database as a copy. A template that can't be copied is made anew, once. It returns
// nil where the template doesn't suit, and a duplicate database is an error.
func (t *template) copy(ctx context.Context, conn *pgx.Conn, tenantID, options string) (*finished, error) {
	broken := uint32(0)
	for {
		found, err := t.ensure(ctx, conn, broken)
		if err != nil {
			return nil, fmt.Errorf("make the template: %w", err)
		}
		if found.misfit {
			return nil, nil
		}
		from := options + " TEMPLATE " + pgx.Identifier{found.name}.Sanitize()
		if majorVersion(conn) >= 15 {
			from += " STRATEGY wal_log" // the other way, and the only one before, is two checkpoints
		}
		err = createDatabase(ctx, conn, tenantID, from)
		if broken != 0 || !isTemplatesFault(err) {
			return found, err
		}
		t.logger.WarnContext(ctx, "the template can't be copied and is made anew", "template", found.name, "error", err.Error())
		broken = found.oid
	}
}

// isTemplatesFault reports whether a new template may be of help. Most often an old one was dropped, or the
// operating system's collations have changed since, which is an internal error to PostgreSQL.
func isTemplatesFault(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case pgUnknownDatabase, pgNotInState, pgUndefinedFile:
		return true
	}
	return strings.HasPrefix(answer.Code, pgInternalClass)
}

// ensure returns the template once it is there, and isn't the broken one. An advisory lock keeps two
// processes from making it at once.
func (t *template) ensure(ctx context.Context, conn *pgx.Conn, broken uint32) (*finished, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.found != nil && t.found.oid != broken {
		return t.found, nil
	}
	n := t.names(conn.Config().User)
	key := lockKey(n.prefix)
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return nil, err
	}
	defer func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", key); err != nil {
			closeAdmin(conn) // ends the lock too
		}
	}()
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
	found := &finished{name: n.name, oid: oid}
	if found.extras, err = extrasOf(ctx, conn, oid); err != nil {
		return nil, err
	}
	if found.misfit, err = isMisfit(ctx, conn, oid); err != nil {
		return nil, err
	}
	if found.misfit {
		t.logger.WarnContext(ctx, "the template names its role in a policy, a default privilege, a user mapping or a grant on what isn't "+
			"the role's: each new database is migrated by itself", "template", n.name)
	}
	t.found = found
	return found, nil
}

// closedDatabase returns the oid of a finished template, 0 where there is none.
func closedDatabase(ctx context.Context, conn *pgx.Conn, name string) (oid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce(max(oid::bigint), 0) FROM pg_database WHERE datname = $1 AND NOT datallowconn AND datistemplate",
		name).Scan(&oid)
	return oid, err
}

// names makes up the names. The database that the fleet connects to stands for the product, and what a
// template holds is its maker's.
func (t *template) names(user string) names {
	product := sha256.Sum256([]byte("/" + t.base.Database()))
	kind := sha256.Sum256(fmt.Appendf(nil, "%t %s", t.roles, user))
	keeper := templatePrefix + hex.EncodeToString(product[:4]) + "_" + hex.EncodeToString(kind[:2])
	return names{keeper: keeper, prefix: keeper + "_", name: keeper + "_" + t.schema.content}
}

// lockKey is the number of an advisory lock.
func lockKey(text string) int64 {
	sum := sha256.Sum256([]byte("tenantdb " + text))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// make makes the template anew, in place of a broken one or one that a crash left unfinished.
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

// makeWithRoles makes a template for tenants with roles of their own, with a new lender. While that migrates
// it has the keeper's rights, which are those of the database's owner.
func (t *template) makeWithRoles(ctx context.Context, conn *pgx.Conn, n names) error {
	keeper, ident := pgx.Identifier{n.keeper}.Sanitize(), pgx.Identifier{n.name}.Sanitize()
	if _, err := conn.Exec(ctx, "CREATE ROLE "+keeper); err != nil && !isPG(err, pgDuplicateRole) {
		return fmt.Errorf("make its owner: %w", err)
	}
	if err := joinRole(ctx, conn, keeper); err != nil {
		return fmt.Errorf("join its owner: %w", err)
	}
	if err := t.drop(ctx, conn, n, n.name); err != nil {
		return err
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	name, password := n.name+"_"+hex.EncodeToString(random[:]), newPassword()
	lender := pgx.Identifier{name}.Sanitize()
	if err := makeRole(ctx, conn, lender, password); err != nil {
		return fmt.Errorf("make its role: %w", err)
	}
	if _, err := conn.Exec(ctx, "GRANT "+keeper+" TO "+lender); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+ident+" OWNER "+keeper+" TEMPLATE template0 ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	if err := openToOwner(ctx, conn, keeper, ident); err != nil {
		return err
	}
	if err := t.migrate(ctx, n.name, &dburl.Role{Name: name, Password: password}); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "REVOKE "+keeper+" FROM "+lender+"; ALTER ROLE "+lender+" NOLOGIN PASSWORD NULL"); err != nil {
		return err
	}
	return asRole(ctx, conn, keeper, func() error {
		_, err := conn.Exec(ctx, "ALTER DATABASE "+ident+closeTemplate)
		return err
	})
}

// migrate brings the unfinished template to the newest version, as a role; nil is the server's own.
func (t *template) migrate(ctx context.Context, name string, as *dburl.Role) error {
	address, err := dburl.Parse(t.base.With(name, as))
	if err != nil {
		return err
	}
	dialer := pghosts.NewDialer(t.hosts, address.Config())
	defer dialer.Stop()
	db := sql.OpenDB(dialer)
	defer db.Close()
	_, err = t.schema.bring(ctx, db, goose.DialectPostgres)
	return err
}

// dropOlder drops this product's templates but this one and the one before, which a process that is about to
// be replaced may still use. One that is being copied stays until the next time.
func (t *template) dropOlder(ctx context.Context, conn *pgx.Conn, n names) {
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1) AND datname <> $2 ORDER BY oid DESC OFFSET 1", n.prefix, n.name)
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

// drop drops a template, finished or not, and lenders that are left without one. The lender of a copy that
// isn't a tenant's yet stays.
func (t *template) drop(ctx context.Context, conn *pgx.Conn, n names, name string) error {
	remove := func() error {
		ident := pgx.Identifier{name}.Sanitize()
		var closed bool
		err := conn.QueryRow(ctx, "SELECT datistemplate FROM pg_database WHERE datname = $1", name).Scan(&closed)
		if closed { // one whose drop was interrupted isn't, and can't be altered
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
	if err := asRole(ctx, conn, pgx.Identifier{n.keeper}.Sanitize(), remove); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1) AND NOT EXISTS"+
		" (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid AND deptype = 'o')", n.prefix)
	if err != nil {
		return err
	}
	lenders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, lender := range lenders { // one that something else mentions stays too
		_, _ = conn.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{lender}.Sanitize())
	}
	return err
}
