package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The engines of host databases, as the tables name them.
const (
	onPostgres = "PostgreSQL"
	onSQLite   = "SQLite"
)

// hostOn makes an empty host database on an engine, and opens it once more with database/sql alone.
func hostOn(b *Bench, engine string) (*hostdb.DB, *sql.DB, error) {
	address, driver, direct := "", "pgx", ""
	switch engine {
	case onPostgres:
		e, err := b.databases(0)
		if err != nil {
			return nil, nil, err
		}
		name := "host_" + hostdb.NewID()
		if _, err := e.admin.Exec(b.ctx, "CREATE DATABASE "+name); err != nil {
			return nil, nil, err
		}
		address = e.server.URL(name)
		direct = address
	default:
		dir, err := b.folder()
		if err != nil {
			return nil, nil, err
		}
		path := filepath.Join(dir, "host.db")
		address, driver, direct = "sqlite:"+path, "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)"
	}
	host, err := hostdb.Open(b.ctx, address)
	if err != nil {
		return nil, nil, err
	}
	b.onClose(func() { _ = host.Close() })
	bare, err := sql.Open(driver, direct)
	if err != nil {
		return nil, nil, err
	}
	b.onClose(func() { _ = bare.Close() })
	return host, bare, nil
}

// fillHost stores n tenants, 3 n users, 5 n memberships, n subscriptions and 1,000 plans by SQL. Triggers are
// off from then on: the database is good for reading. Ids are numbers in hexadecimal; oauth_id is "o" and the
// id, slug "s-" and the id.
func fillHost(ctx context.Context, db *sql.DB, engine string, n int) error {
	series, hex := "generate_series(0, %d) AS g(i)", "lpad(to_hex(%s), 32, '0')"
	list := "SELECT 'ALTER TABLE ' || relname || ' DISABLE TRIGGER ALL' FROM pg_class WHERE relname LIKE " +
		"'core\\_%' AND relkind = 'r'"
	if engine == onSQLite {
		series, hex = "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT "+
			"i FROM n) AS g", "printf('%%032x', %s)"
		list = "SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger'"
	}
	statements, err := texts(ctx, db, list)
	if err != nil {
		return err
	}
	id := func(of string) string { return fmt.Sprintf(hex, of) }
	rows := func(count int) string { return fmt.Sprintf(series, count-1) }
	statements = append(statements,
		"INSERT INTO core_pricing_plans (id, name) SELECT 'plan-' || i, 'Plan' FROM "+rows(1000),
		"INSERT INTO core_tenants (id, name, slug, plan_tier) SELECT "+id("i")+", 'T', 's-' || "+id("i")+
			", 'plan-' || (i % 1000) FROM "+rows(n),
		"INSERT INTO core_users (id, email, oauth_id) SELECT "+id("i")+", i || '@b', 'o' || "+id("i")+
			" FROM "+rows(3*n),
		fmt.Sprintf(
			"INSERT INTO core_memberships (id, user_id, tenant_id, role) SELECT %s, %s, %s, 'member' FROM %s",
			id("i"),
			id(fmt.Sprintf("i %% %d", 3*n)), id(fmt.Sprintf("(i + i / %d) %% %d", 3*n, n)), rows(5*n)),
		"INSERT INTO core_subscriptions (id, tenant_id, status, plan_tier) SELECT "+id("i")+", "+id("i")+
			", 'active', 'plan-' || (i % 1000) FROM "+rows(n),
		"ANALYZE")
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%.60s: %w", statement, err)
		}
	}
	return nil
}

// texts reads the one column of a query.
func texts(ctx context.Context, db *sql.DB, query string) (list []string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, rows.Err()
}

// hexID returns the n-th id.
func hexID(n int) string { return fmt.Sprintf("%032x", n) }

// withoutLateral returns PostgreSQL's access query in the form for SQLite, which finds the subscriptions by
// id.
func withoutLateral(text string) string {
	return strings.NewReplacer("LEFT JOIN LATERAL (SELECT ranked.* FROM",
		"LEFT JOIN core_subscriptions s ON s.id IN (SELECT ranked.id FROM",
		") s ON true", ")").Replace(text)
}

// accessText returns the access query as it goes over the wire. PostgreSQL shows the last query of each
// session.
func accessText(b *Bench) (string, error) {
	host, bare, err := hostOn(b, onPostgres)
	if err != nil {
		return "", err
	}
	if _, err := host.Access(b.ctx, hostdb.UserKey{OAuthID: "o" + hexID(0)},
		hostdb.TenantKey{Slug: "s-" + hexID(0)}); err != nil {
		return "", err
	}
	found, err := texts(b.ctx, bare,
		"SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "+
			"AND query LIKE '%core_memberships m %' AND query LIKE '%$2%'")
	if err != nil {
		return "", err
	}
	if len(found) != 1 || !strings.Contains(found[0], "$2") {
		return "", fmt.Errorf("the access query was not found among what the server was asked: %d candidates",
			len(found))
	}
	return found[0], nil
}
