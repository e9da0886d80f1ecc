package main

import (
	"context"
	_ "embed"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// estate is a PostgreSQL server with as many equal databases as the run needs. All scenarios share it.
type estate struct {
	server *pgtest.Server
	admin  *pgx.Conn
	made   int
}

const (
	tenantBudget = 80 // connections that each way of pooling may have
	// roleLimit is how many connections a server with max_connections=100 leaves to roles that aren't
	// superusers. Each way of pooling connects as a role of its own with this limit. So it meets the same
	// refusals (53300), while the others' idle connections stay warm.
	roleLimit    = 97
	rolePassword = "bench"
	templateName = "bench_template"
)

// databaseName names the i-th database.
func databaseName(i int) string { return fmt.Sprintf("bench_%05d", i) }

// databases makes databases until there are n.
func (b *Bench) databases(n int) (*estate, error) {
	if b.estate == nil {
		server, stop, err := pgtest.Launch("max_connections=600", "autovacuum=off", "max_wal_size=16GB",
			"checkpoint_timeout=1h", "shared_buffers=256MB",
			"track_activity_query_size=16384")
		if err != nil {
			return nil, err
		}
		b.atEnd(stop)
		admin, err := pgx.Connect(b.ctx, server.URL("postgres"))
		if err != nil {
			return nil, err
		}
		b.atEnd(func() { _ = admin.Close(context.Background()) })
		b.estate = &estate{server: server, admin: admin}
		if err := b.estate.prepare(b.ctx); err != nil {
			return nil, err
		}
	}
	e := b.estate
	for ; e.made < n; e.made++ {
		if _, err := e.admin.Exec(b.ctx, "CREATE DATABASE "+databaseName(e.made)+
			e.copyOf(templateName)); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// copyOf returns the options of CREATE DATABASE that copy a template fastest.
func (e *estate) copyOf(template string) string {
	// the major version has two digits since 10
	if major, _, _ := strings.Cut(e.admin.PgConn().ParameterStatus("server_version"), "."); major < "15" {
		return " TEMPLATE " + template
	}
	return " TEMPLATE " + template + " STRATEGY wal_log"
}

// prepare makes the template of the databases, and the roles.
func (e *estate) prepare(ctx context.Context) error {
	if _, err := e.admin.Exec(ctx, "CREATE DATABASE "+templateName); err != nil {
		return err
	}
	for _, role := range []string{"hard", "each", "lru4", "lru", "ours", "whole"} {
		if _, err := e.admin.Exec(ctx,
			fmt.Sprintf("CREATE ROLE bench_%s LOGIN PASSWORD '%s' CONNECTION LIMIT %d", role, rolePassword,
				roleLimit)); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, e.server.URL(templateName))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `CREATE TABLE notes (id int PRIMARY KEY, body text NOT NULL);
		INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 1000) i;
		GRANT SELECT ON notes TO PUBLIC; ANALYZE notes`)
	return err
}

// urls returns the databases' URLs for a role.
func (e *estate) urls(role string, n int) ([]string, error) {
	list := make([]string, n)
	for i := range list {
		u, err := url.Parse(e.server.URL(databaseName(i)))
		if err != nil {
			return nil, err
		}
		u.User = url.UserPassword("bench_"+role, rolePassword)
		list[i] = u.String()
	}
	return list, nil
}

// sessions returns how many connections to the estate's databases were ever opened, as the server counts
// them.
func (e *estate) sessions(ctx context.Context) (n float64, err error) {
	if _, err := e.admin.Exec(ctx, "SELECT pg_stat_clear_snapshot()"); err != nil {
		return 0, err
	}
	err = e.admin.QueryRow(ctx,
		"SELECT coalesce(sum(sessions), 0)::float8 FROM pg_stat_database WHERE datname LIKE 'bench\\_%'",
	).Scan(&n)
	return n, err
}

//go:embed pgbouncer.ini
var pgbouncerINI string

// bouncer starts PgBouncer in front of the estate, with the budget split evenly among n databases, and
// returns the databases' URLs through it.
func (e *estate) bouncer(b *Bench, n int) ([]string, error) {
	var settings []string
	for line := range strings.Lines(pgbouncerINI) {
		settings = append(settings, strings.TrimSpace(line))
	}
	settings = append(settings, fmt.Sprintf("default_pool_size = %d", evenSplit(tenantBudget, n)))
	through, stop, err := pgtest.LaunchPgBouncer(e.server, settings...)
	if err != nil {
		return nil, fmt.Errorf("PgBouncer (apt-get install pgbouncer): %w", err)
	}
	b.onClose(stop)
	list := make([]string, n)
	for i := range list {
		list[i] = through.URL(databaseName(i))
	}
	return list, nil
}

// service starts a child that serves the estate's first n databases in one of the ways, and returns it as a
// target.
func (e *estate) service(b *Bench, kind string, n, budget int) (*target, error) {
	roles := map[string]string{hardWired: "hard", openEach: "each", poolLRU4: "lru4", poolLRU: "lru",
		poolAlone: "ours", wholePath: "whole"}
	var urls []string
	var err error
	if kind == viaPgBouncer {
		urls, err = e.bouncer(b, n)
	} else {
		urls, err = e.urls(roles[kind], n)
	}
	if err != nil {
		return nil, err
	}
	what := servedBy{Kind: kind, Tenants: urls, Budget: budget}
	t := &target{requests: make([][]byte, n), answers: make([][]byte, n)}
	token := ""
	if kind == wholePath {
		if token, err = enroll(b, &what, urls); err != nil {
			return nil, err
		}
	}
	for i := range n {
		t.answers[i] = []byte(databaseName(i))
		t.requests[i] = wireRequest(tenantIndex, fmt.Sprint(i))
		if token != "" {
			t.requests[i] = wireRequest("Authorization", "Bearer "+token, tenantHeader, slug(i))
		}
	}
	t.server, err = startChild(b, what)
	return t, err
}

// enroll makes a host database in which one user is a member of every tenant, and returns the user's token.
func enroll(b *Bench, what *servedBy, urls []string) (token string, err error) {
	dir, err := b.folder()
	if err != nil {
		return "", err
	}
	what.Guard, what.Host, what.Dir = ours, "sqlite:"+filepath.Join(dir, "host.db"),
		filepath.Join(dir, "tenants")
	host, err := hostdb.Open(b.ctx, what.Host)
	if err != nil {
		return "", err
	}
	defer host.Close()
	tenants, err := populate(b.ctx, host, 1, len(urls), func(_ string, i int) string { return urls[i] })
	if err != nil {
		return "", err
	}
	if err := joinAll(b.ctx, host, tenants); err != nil {
		return "", err
	}
	keys, err := newKeyPair("HS256")
	if err != nil {
		return "", err
	}
	if what.Keys, err = keys.wire(); err != nil {
		return "", err
	}
	return keys.token(subject(0))
}

// joinAll makes the first user a member of the other tenants, too.
func joinAll(ctx context.Context, host *hostdb.DB, tenants []*hostdb.TenantCatalog) error {
	user, err := host.Users.ByOAuthID(ctx, subject(0))
	if err != nil {
		return err
	}
	return host.InTx(ctx, func(tx *hostdb.Tx) error {
		for _, t := range tenants[1:] {
			m := &hostdb.Membership{UserID: user.ID, TenantID: t.ID, Role: hostdb.RoleMember, IsActive: true}
			if err := tx.Memberships.Insert(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
}
