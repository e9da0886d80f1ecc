package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// postgresServer keeps each database on one PostgreSQL server.
type postgresServer struct {
	base     *dburl.URL
	admins   *admins
	roles    bool      // each new tenant has a role of its own
	template *template // nil: new databases are empty
	logger   *slog.Logger
}

// The conditions of PostgreSQL (its documentation, appendix A) that are expected.
const (
	pgDuplicateDatabase     = "42P04"
	pgUnknownDatabase       = "3D000"
	pgDuplicateRole         = "42710"
	pgInsufficientPrivilege = "42501"
	pgNotInState            = "55000" // as for a database whose drop was interrupted
	pgUndefinedFile         = "58P01"
	pgInternalClass         = "XX"
)

const (
	othersPatience = 2 * time.Second       // for connections that can't be ended to end by themselves: then comes the last try
	othersPause    = 20 * time.Millisecond // the first; each is twice the one before
)

// isPG reports whether the server answered with a condition.
func isPG(err error, code string) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == code
}

func (s *postgresServer) address(tenantID string) (hostdb.Secret, error) {
	var own *dburl.Role
	if s.roles {
		own = &dburl.Role{Name: databaseOf(tenantID), Password: newPassword()}
	}
	return hostdb.Secret(s.base.With(databaseOf(tenantID), own)), nil
}

func (s *postgresServer) owns(tenant *hostdb.TenantCatalog) bool {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	return err == nil && slices.Equal(address.Hosts(), s.base.Hosts()) && address.Database() == databaseOf(tenant.ID)
}

// databaseOf is the generated name of a tenant's database, and of its role where it has one.
func databaseOf(tenantID string) string { return "tenant_" + tenantID }

// hasRole reports whether a tenant connects as a role of its own. Its db_url says so, which another process's
// Config may have made.
func hasRole(tenant *hostdb.TenantCatalog) bool {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	return err == nil && address.User() == databaseOf(tenant.ID)
}

// quoted is the name of a tenant's database or role in a statement.
func quoted(tenantID string) string { return pgx.Identifier{databaseOf(tenantID)}.Sanitize() }

// checkTimeout is how long New waits for the server.
const checkTimeout = 10 * time.Second

// check makes sure that the server's own role may make what tenants need. It leaves no connection open.
func (s *postgresServer) check() error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	conn, err := s.admins.connect(ctx)
	if err != nil {
		return err
	}
	defer closeAdmin(conn)
	r, err := rightsOf(ctx, conn)
	if err != nil {
		return err
	}
	return r.missing(true)
}

func (s *postgresServer) list(ctx context.Context) (ids []string, err error) {
	err = s.admins.use(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT substr(datname, length($1) + 1) FROM pg_database WHERE datname ~ ('^' || $1 || '[0-9a-f]{32}$')", databaseOf(""))
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return ids, err
}

func (s *postgresServer) create(ctx context.Context, tenant *hostdb.TenantCatalog) (version int64, err error) {
	err = s.admins.use(ctx, func(conn *pgx.Conn) error {
		if hasRole(tenant) {
			version, err = s.createWithRole(ctx, conn, tenant)
		} else {
			version, err = s.createShared(ctx, conn, tenant.ID)
		}
		return lacking(ctx, conn, hasRole(tenant), err)
	})
	return version, err
}

// createShared creates a database for the server's own role.
func (s *postgresServer) createShared(ctx context.Context, conn *pgx.Conn, tenantID string) (int64, error) {
	from, err := s.fill(ctx, conn, tenantID, "", false)
	exists := isPG(err, pgDuplicateDatabase)
	if err != nil && !exists {
		return unknown, err
	}
	if from == nil {
		return unknown, nil
	}
	if text := statements(from.extras, tenantID); text != "" { // again for one that exists: a crash may have come between
		if _, err := conn.Exec(ctx, text); err != nil {
			return unknown, fmt.Errorf("copy the template's settings: %w", err)
		}
	}
	if exists {
		return unknown, nil
	}
	return s.template.schema.latest(), nil
}

// fill creates a tenant's database from the template, or empty. It returns the template, nil for an empty
// one.
func (s *postgresServer) fill(ctx context.Context, conn *pgx.Conn, tenantID, options string, roles bool) (*finished, error) {
	if s.template != nil && s.roles == roles { // another process's Config may have decided the tenant's db_url
		from, err := s.template.copy(ctx, conn, tenantID, options)
		if from != nil || err != nil {
			return from, err
		}
	}
	return nil, createDatabase(ctx, conn, tenantID, options+" TEMPLATE template0")
}

// createDatabase creates a tenant's database. template0 is the source without a session, so that several can
// be created at once.
func createDatabase(ctx context.Context, conn *pgx.Conn, tenantID, options string) error {
	_, err := conn.Exec(ctx, "CREATE DATABASE "+quoted(tenantID)+options)
	return err
}

// createWithRole creates the role of the db_url and a database that only it may connect to. Nobody may before
// that is so.
func (s *postgresServer) createWithRole(ctx context.Context, conn *pgx.Conn, tenant *hostdb.TenantCatalog) (int64, error) {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	if err != nil || address.Password() == "" {
		return unknown, errors.New("its db_url has no password")
	}
	role := quoted(tenant.ID)
	if err := makeRole(ctx, conn, role, address.Password()); err != nil {
		return unknown, fmt.Errorf("make its role: %w", err)
	}
	if err := joinRole(ctx, conn, role); err != nil {
		return unknown, fmt.Errorf("join its role: %w", err)
	}
	s.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "role made")
	from, err := s.fill(ctx, conn, tenant.ID, " OWNER "+role+" ALLOW_CONNECTIONS false", true)
	exists := isPG(err, pgDuplicateDatabase)
	if err != nil && !exists {
		return unknown, err
	}
	s.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "database made for the role")
	state, err := stateOf(ctx, conn, tenant.ID)
	if err != nil {
		return unknown, err
	}
	if !state.open {
		if err := openToOwner(ctx, conn, role, role); err != nil { // the database has the role's name
			return unknown, err
		}
	}
	if err := leaveRole(ctx, conn, role); err != nil {
		return unknown, err
	}
	if err := s.takeOver(ctx, conn, tenant, state, from); err != nil {
		return unknown, fmt.Errorf("give it what it has from the template: %w", err)
	}
	if exists || from == nil {
		return unknown, nil
	}
	return s.template.schema.latest(), nil
}

// drop removes a tenant's database, and its role where it has one.
func (s *postgresServer) drop(ctx context.Context, tenant *hostdb.TenantCatalog) error {
	return s.admins.use(ctx, func(conn *pgx.Conn) error {
		own := false
		var err error
		if hasRole(tenant) {
			if own, err = roleExists(ctx, conn, tenant.ID); err != nil {
				return err
			}
		}
		if !own { // where its role is gone, so is the database that it owned
			return lacking(ctx, conn, false, s.dropDatabase(ctx, conn, tenant.ID, func(do func() error) error { return do() }))
		}
		return lacking(ctx, conn, true, s.dropWithRole(ctx, conn, tenant.ID))
	})
}

// dropWithRole drops a tenant's database, as the role that owns it, and the role.
func (s *postgresServer) dropWithRole(ctx context.Context, conn *pgx.Conn, tenantID string) error {
	if err := joinRole(ctx, conn, quoted(tenantID)); err != nil {
		return fmt.Errorf("join its role: %w", err)
	}
	err := s.dropDatabase(ctx, conn, tenantID, func(do func() error) error { return asRole(ctx, conn, quoted(tenantID), do) })
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "DROP ROLE IF EXISTS "+quoted(tenantID)); err != nil {
		return fmt.Errorf("drop its role: %w", err)
	}
	return nil
}

// dropDatabase first refuses and ends connections, so that a program that the host database can't reach stops
// writing, whatever comes next. asOwner does something as the database's owner.
func (s *postgresServer) dropDatabase(ctx context.Context, conn *pgx.Conn, tenantID string, asOwner func(func() error) error) error {
	err := asOwner(func() error {
		if _, err := conn.Exec(ctx, "ALTER DATABASE "+quoted(tenantID)+" WITH ALLOW_CONNECTIONS false"); err != nil {
			return err
		}
		return endSessions(ctx, conn, tenantID, "usename = current_user")
	})
	if isPG(err, pgUnknownDatabase) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fence it off: %w", err)
	}
	if err := endOthers(ctx, conn, tenantID); err != nil {
		return fmt.Errorf("end its connections: %w", err)
	}
	s.logger.DebugContext(ctx, "dropping", "tenant", tenantID, "step", "fenced")
	return asOwner(func() error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quoted(tenantID)+" WITH (FORCE)")
		return err
	})
}

// endSessions ends the connections to a tenant's database that meet a condition, and from PostgreSQL 14 on
// waits for it. FORCE would do so only where nothing else is in the way of the drop.
func endSessions(ctx context.Context, conn *pgx.Conn, tenantID, condition string) error {
	end := "pg_terminate_backend(pid)"
	if majorVersion(conn) >= 14 {
		end = "pg_terminate_backend(pid, 5000)"
	}
	_, err := conn.Exec(ctx, "SELECT "+end+" FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datname = $1 AND "+condition, databaseOf(tenantID))
	return err
}

// endOthers ends what connections are left, which are others'. One that this role may not end, such as a
// superuser's, may be ending by itself: a client that closes one doesn't wait until the server has.
func endOthers(ctx context.Context, conn *pgx.Conn, tenantID string) error {
	began := time.Now()
	for pause := othersPause; ; pause *= 2 {
		err := endSessions(ctx, conn, tenantID, "true")
		if !isPG(err, pgInsufficientPrivilege) || time.Since(began) > othersPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// majorVersion is the server's, 0 where it isn't known.
func majorVersion(conn *pgx.Conn) int {
	text := conn.PgConn().ParameterStatus("server_version")
	if end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		text = text[:end]
	}
	major, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return major
}
