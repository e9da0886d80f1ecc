package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// postgresServer creates databases on one PostgreSQL server.
type postgresServer struct {
	base     *dburl.URL
	admins   *adminPool
	roles    bool      // each new tenant gets its own role
	template *template // nil: new databases are empty
	logger   *slog.Logger
}

const (
	othersTimeout = 2 * time.Second       // how long other roles' connections may take to end
	othersPause   = 20 * time.Millisecond // the first pause between two attempts; it doubles
)

func (s *postgresServer) newURL(tenantID string) (hostdb.Secret, error) {
	var own *dburl.Role
	if s.roles {
		own = &dburl.Role{Name: databaseOf(tenantID), Password: newPassword()}
	}
	return hostdb.Secret(s.base.With(databaseOf(tenantID), own)), nil
}

func (s *postgresServer) owns(tenant *hostdb.TenantCatalog) bool {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	return err == nil && slices.Equal(address.Hosts(), s.base.Hosts()) &&
		address.Database() == databaseOf(tenant.ID)
}

// databaseOf returns the generated name of a tenant's database, which is also the name of its role.
func databaseOf(tenantID string) string { return "tenant_" + tenantID }

// hasRole reports whether a tenant connects as its own role. Its db_url decides, since another process with
// another Config may have made it.
func hasRole(tenant *hostdb.TenantCatalog) bool {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	return err == nil && address.User() == databaseOf(tenant.ID)
}

// quoted returns the quoted name of a tenant's database or role.
func quoted(tenantID string) string { return pgx.Identifier{databaseOf(tenantID)}.Sanitize() }

// checkTimeout is how long New waits for the server.
const checkTimeout = 10 * time.Second

// check returns an error if the server's own role may not create what tenants need. It leaves no connection
// open.
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
		rows, err := conn.Query(ctx, "SELECT substr(datname, length($1) + 1) FROM pg_database"+
			" WHERE datname ~ ('^' || $1 || '[0-9a-f]{32}$')", databaseOf(""))
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return ids, err
}

func (s *postgresServer) create(ctx context.Context,
	tenant *hostdb.TenantCatalog) (version int64, err error) {
	err = s.admins.use(ctx, func(conn *pgx.Conn) error {
		if hasRole(tenant) {
			version, err = s.createWithRole(ctx, conn, tenant)
		} else {
			version, err = s.createShared(ctx, conn, tenant.ID)
		}
		return explainRights(ctx, conn, hasRole(tenant), err)
	})
	return version, err
}

// createShared creates a database that belongs to the server's own role.
func (s *postgresServer) createShared(ctx context.Context, conn *pgx.Conn, tenantID string) (int64, error) {
	from, err := s.copyOrCreate(ctx, conn, tenantID, "", false)
	exists := sqlstate.Of(err) == sqlstate.DuplicateDatabase
	if err != nil && !exists {
		return unknown, err
	}
	if from == nil {
		return unknown, nil
	}
	// An existing database may lack the properties: a crash may have come before them.
	if text := statements(from.properties, tenantID); text != "" {
		if _, err := conn.Exec(ctx, text); err != nil {
			return unknown, fmt.Errorf("copy the template's settings: %w", err)
		}
	}
	if exists {
		return unknown, nil
	}
	return s.template.schema.latest(), nil
}

// copyOrCreate creates a tenant's database as a copy of the template, which it returns, or else empty.
func (s *postgresServer) copyOrCreate(ctx context.Context, conn *pgx.Conn, tenantID, options string,
	roles bool) (*readyTemplate, error) {
	if s.template != nil && s.roles == roles { // another process with another Config may have made the db_url
		from, err := s.template.copy(ctx, conn, tenantID, options)
		if from != nil || err != nil {
			return from, err
		}
	}
	// Nobody connects to template0, so several databases can be created from it at once.
	return nil, createDatabase(ctx, conn, tenantID, options+" TEMPLATE template0")
}

// createDatabase creates a tenant's database.
func createDatabase(ctx context.Context, conn *pgx.Conn, tenantID, options string) error {
	_, err := conn.Exec(ctx, "CREATE DATABASE "+quoted(tenantID)+options)
	return err
}

// createWithRole creates the role of the db_url, and a database to which only this role may connect. Until
// that holds, nobody may connect.
func (s *postgresServer) createWithRole(ctx context.Context, conn *pgx.Conn,
	tenant *hostdb.TenantCatalog) (int64, error) {
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
	from, err := s.copyOrCreate(ctx, conn, tenant.ID, " OWNER "+role+" ALLOW_CONNECTIONS false", true)
	exists := sqlstate.Of(err) == sqlstate.DuplicateDatabase
	if err != nil && !exists {
		return unknown, err
	}
	s.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "database made for the role")
	state, err := stateOf(ctx, conn, tenant.ID)
	if err != nil {
		return unknown, err
	}
	if !state.open {
		if err := openToOwner(ctx, conn, role, role); err != nil { // the database is named like the role
			return unknown, err
		}
	}
	if err := leaveRole(ctx, conn, role); err != nil {
		return unknown, err
	}
	if err := s.reassign(ctx, conn, tenant, state, from); err != nil {
		return unknown, fmt.Errorf("give its role what the template's role owns: %w", err)
	}
	if exists || from == nil {
		return unknown, nil
	}
	return s.template.schema.latest(), nil
}

// drop drops a tenant's database, and its role if it has one. If the role is gone, the database that it owned
// is too.
func (s *postgresServer) drop(ctx context.Context, tenant *hostdb.TenantCatalog) error {
	return s.admins.use(ctx, func(conn *pgx.Conn) error {
		own := false
		var err error
		if hasRole(tenant) {
			if own, err = roleExists(ctx, conn, tenant.ID); err != nil {
				return err
			}
		}
		if own {
			return explainRights(ctx, conn, true, s.dropWithRole(ctx, conn, tenant.ID))
		}
		asSelf := func(do func() error) error { return do() }
		return explainRights(ctx, conn, false, s.dropDatabase(ctx, conn, tenant.ID, asSelf))
	})
}

// dropWithRole drops a tenant's database, as the role that owns it, and then the role.
func (s *postgresServer) dropWithRole(ctx context.Context, conn *pgx.Conn, tenantID string) error {
	if err := joinRole(ctx, conn, quoted(tenantID)); err != nil {
		return fmt.Errorf("join its role: %w", err)
	}
	asOwner := func(do func() error) error { return asRole(ctx, conn, quoted(tenantID), do) }
	if err := s.dropDatabase(ctx, conn, tenantID, asOwner); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "DROP ROLE IF EXISTS "+quoted(tenantID)); err != nil {
		return fmt.Errorf("drop its role: %w", err)
	}
	return nil
}

// dropDatabase drops a tenant's database. First it refuses new connections and ends the open ones, so that a
// process that is cut off from the host database stops writing, even if the drop fails. asOwner calls a
// function as the database's owner.
func (s *postgresServer) dropDatabase(ctx context.Context, conn *pgx.Conn, tenantID string,
	asOwner func(func() error) error) error {
	err := asOwner(func() error {
		if _, err := conn.Exec(ctx, "ALTER DATABASE "+quoted(tenantID)+
			" WITH ALLOW_CONNECTIONS false"); err != nil {
			return err
		}
		return endSessions(ctx, conn, tenantID, "usename = current_user")
	})
	if sqlstate.Of(err) == sqlstate.InvalidCatalogName {
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

// endSessions ends the connections to a tenant's database that meet a condition. From PostgreSQL 14 on it
// waits for their ends. DROP DATABASE WITH (FORCE) would end none if anything else prevented the drop.
func endSessions(ctx context.Context, conn *pgx.Conn, tenantID, condition string) error {
	end := "pg_terminate_backend(pid)"
	if majorVersion(conn) >= 14 {
		end = "pg_terminate_backend(pid, 5000)"
	}
	_, err := conn.Exec(ctx, "SELECT "+end+" FROM pg_stat_activity"+
		" WHERE usesysid IS NOT NULL AND datname = $1 AND "+condition, databaseOf(tenantID))
	return err
}

// endOthers ends the connections of other roles. It gives those that this role may not end, such as a
// superuser's, a moment to end by themselves: a client that closes one doesn't wait for the server.
func endOthers(ctx context.Context, conn *pgx.Conn, tenantID string) error {
	began := time.Now()
	for pause := othersPause; ; pause *= 2 {
		err := endSessions(ctx, conn, tenantID, "true")
		if sqlstate.Of(err) != sqlstate.InsufficientPrivilege || time.Since(began) > othersTimeout {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// majorVersion returns the server's major version, or 0 if it is unknown.
func majorVersion(conn *pgx.Conn) int {
	var major int // "15.8 (Debian 15.8-0+deb12u1)", or "18beta1"
	_, _ = fmt.Sscanf(conn.PgConn().ParameterStatus("server_version"), "%d", &major)
	return major
}
