package tenantdbtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// servers are the PostgreSQL servers that the tests of the process use. They are shared, so that the tests
// share the templates there.
var servers struct {
	mu    sync.Mutex         // guards what follows, and server.users
	keep  bool               // Run is under way, and drops the templates at its end
	byURL map[string]*server // those that a test has used
}

// server is a PostgreSQL server with the templates of the host database and of the tenants' databases.
type server struct {
	base  *dburl.URL
	users int // tests that use it

	mu      sync.Mutex // guards what follows; locked while the templates are made and dropped
	made    bool
	product string                // an empty database, by whose name the fleet names its templates
	host    string                // the template of the host database
	fleets  map[bool]*fleet.Fleet // one of each kind, by Config.SharedRole, that has templates there
}

// serverAt returns a server. The caller releases it.
func serverAt(url hostdb.Secret) (*server, error) {
	base, err := dburl.Parse(url.Reveal())
	if err != nil {
		return nil, fmt.Errorf("Options.Postgres: %w", err)
	}
	servers.mu.Lock()
	s := servers.byURL[url.Reveal()]
	if s == nil {
		s = &server{base: base}
		if servers.byURL == nil {
			servers.byURL = map[string]*server{}
		}
		servers.byURL[url.Reveal()] = s
	}
	s.users++
	servers.mu.Unlock()
	s.mu.Lock()
	if !s.made {
		err = s.make(context.Background())
	}
	s.mu.Unlock()
	if err != nil {
		_ = s.release(context.Background())
		return nil, err
	}
	return s, nil
}

// release ends one test's use. After the last one the templates are dropped, unless Run does that.
func (s *server) release(ctx context.Context) error {
	servers.mu.Lock()
	s.users--
	servers.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	servers.mu.Lock()
	last := s.users == 0 && !servers.keep
	servers.mu.Unlock()
	if !last {
		return nil
	}
	return s.drop(ctx)
}

// suite is the tests of a test binary.
type suite struct{ tests interface{ Run() int } }

// Run runs the tests, and afterwards drops the templates that they have left.
func (s suite) Run() int {
	servers.mu.Lock()
	servers.keep = true
	servers.mu.Unlock()
	code := s.tests.Run()
	servers.mu.Lock()
	all := servers.byURL
	servers.mu.Unlock()
	for _, server := range all {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		server.mu.Lock()
		err := server.drop(ctx)
		server.mu.Unlock()
		cancel()
		if err != nil {
			fmt.Println("tenantdbtest: " + err.Error())
			code = max(code, 1)
		}
	}
	return code
}

// make makes the product's database and the template of the host database. The caller holds s.mu.
func (s *server) make(ctx context.Context) error {
	s.product, s.host = newName("product"), newName("host_template")
	s.made = true // so that release drops what was made before an error
	for _, name := range []string{s.product, s.host} {
		if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
			return err
		}
	}
	db, err := hostdb.Open(ctx, s.at(s.host).Reveal())
	if err != nil {
		return fmt.Errorf("migrate the template %s: %w", s.host, err)
	}
	return db.Close()
}

// drop drops what make and the fleets made. The caller holds s.mu.
func (s *server) drop(ctx context.Context) (err error) {
	if !s.made {
		return nil
	}
	for _, f := range s.fleets {
		err = errors.Join(err, f.DropTemplates(ctx))
	}
	s.made, s.fleets = false, nil
	return errors.Join(err, s.dropDatabase(ctx, s.host), s.dropDatabase(ctx, s.product))
}

// remember keeps a fleet that may have a template on the server.
func (s *server) remember(f *fleet.Fleet, sharedRole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fleets == nil {
		s.fleets = map[bool]*fleet.Fleet{}
	}
	s.fleets[sharedRole] = f
}

// at returns the URL of a database on the server.
func (s *server) at(database string) hostdb.Secret { return hostdb.Secret(s.base.With(database, nil)) }

// exec runs a statement on the server.
func (s *server) exec(ctx context.Context, sql string) error {
	conn, err := pghosts.New().Open(ctx, s.base.Config())
	if err != nil {
		return fmt.Errorf("the server of Options.Postgres can't be reached: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

func (s *server) dropDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// newName returns a name for a database that nobody else has.
func newName(kind string) string { return "tenantdbtest_" + kind + "_" + strings.ToLower(rand.Text()) }

// postgresDatabase makes an empty host database on a PostgreSQL server.
func (k *Kit) postgresDatabase() (hostdb.Secret, *server, error) {
	s, err := serverAt(k.options.Postgres)
	if err != nil {
		return "", nil, err
	}
	k.closeLater("the server's templates", s.release)
	name := newName("host")
	if err := s.exec(k.t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+s.host); err != nil {
		return "", nil, fmt.Errorf("copy the template %s: %w", s.host, err)
	}
	k.closeLater("the host database's copy", func(ctx context.Context) error {
		return s.dropDatabase(ctx, name)
	})
	return s.at(name), s, nil
}

// dropTenants drops the databases and the roles of all tenants that were provisioned.
func (k *Kit) dropTenants(ctx context.Context) (failed error) {
	for tenant, err := range k.Host.Tenants.All(ctx) {
		if err != nil {
			return errors.Join(failed, err)
		}
		if tenant.Status == hostdb.TenantDropped || tenant.DBURL == "" {
			continue
		}
		failed = errors.Join(failed, k.Fleet.Drop(ctx, tenant.ID))
	}
	return failed
}
