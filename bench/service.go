package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// The services that children offer.
const (
	guardedHandler = "a guard"
	hardWired      = "hard-wired pgxpool"
	openEach       = "open per request"
	poolLRU4       = "LRU of pgxpools of 4"
	poolLRU        = "LRU of pgxpools"
	viaPgBouncer   = "PgBouncer"
	poolAlone      = "tenantdb, pool alone"
	wholePath      = "tenantdb, whole middleware"
	oneFile        = "one open *sql.DB"
	wholeOnFile    = "tenantdb, whole middleware, SQLite"
)

// pointQuery finds one row by its key. current_database tells which tenant's it is.
const pointQuery = "SELECT current_database(), body FROM notes WHERE id = $1"

// tenantIndex is the header that names the tenant for the services without a middleware.
const tenantIndex = "X-Index"

// querier runs a request's query and returns the database's name.
type querier func(ctx context.Context, tenant int) (string, error)

// newService returns the handler that a child serves, and a function that closes it.
func newService(what *servedBy) (http.Handler, func(), error) {
	ctx := context.Background()
	switch what.Kind {
	case guardedHandler, wholePath, wholeOnFile:
		return newGuarded(ctx, what)
	case cachedMembers:
		return newCachedMembers(ctx, what)
	case hardWired:
		pool, err := newPgxPool(ctx, what.Tenants[0], what.Budget, pgx.QueryExecModeCacheStatement)
		if err != nil {
			return nil, nil, err
		}
		return answering(func(ctx context.Context, _ int) (name string, err error) {
			return readName(pool.QueryRow(ctx, pointQuery, 1))
		}), pool.Close, nil
	case openEach:
		return answering(func(ctx context.Context, tenant int) (string, error) {
			conn, err := pgx.Connect(ctx, what.Tenants[tenant])
			if err != nil {
				return "", err
			}
			defer conn.Close(ctx)
			return readName(conn.QueryRow(ctx, pointQuery, 1))
		}), func() {}, nil
	case poolLRU4, poolLRU:
		n := evenSplit(what.Budget, len(what.Tenants))
		if what.Kind == poolLRU4 {
			n = 4
		}
		pools := newLRUPools(what.Tenants, what.Budget, n)
		return answering(pools.query), pools.close, nil
	case viaPgBouncer:
		pools := newBouncedPools(what.Tenants)
		return answering(pools.query), pools.close, nil
	case poolAlone:
		return newPoolAlone(what)
	case oneFile:
		db, err := sql.Open("sqlite", "file:"+what.Dir+
			"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)")
		if err != nil {
			return nil, nil, err
		}
		return answering(func(ctx context.Context, _ int) (string, error) {
				return readFile(ctx, db)
			}), func() {
				_ = db.Close()
			}, nil
	}
	return nil, nil, fmt.Errorf("no service is called %q", what.Kind)
}

// answering returns the handler that all services without a middleware share.
func answering(query querier) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, err := strconv.Atoi(r.Header.Get(tenantIndex))
		if err != nil {
			http.Error(w, "which tenant?", http.StatusBadRequest)
			return
		}
		name, err := query(r.Context(), tenant)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, name)
	})
}

// readName scans the row of pointQuery.
func readName(row pgx.Row) (name string, err error) {
	var body string
	err = row.Scan(&name, &body)
	return name, err
}

// readFile is pointQuery on SQLite, which has no current_database.
func readFile(ctx context.Context, db *sql.DB) (name string, err error) {
	var body string
	err = db.QueryRowContext(ctx, "SELECT name, body FROM notes WHERE id = $1", 1).Scan(&name, &body)
	return name, err
}

// newPgxPool makes a pgxpool with a maximum of connections.
func newPgxPool(ctx context.Context, url string, conns int, mode pgx.QueryExecMode) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(conns)
	cfg.ConnConfig.DefaultQueryExecMode = mode
	return pgxpool.NewWithConfig(ctx, cfg)
}

// newPoolAlone serves from tenantdb's pool without its middleware.
func newPoolAlone(what *servedBy) (http.Handler, func(), error) {
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxConns: what.Budget})
	if err != nil {
		return nil, nil, err
	}
	catalog := make([]*hostdb.TenantCatalog, len(what.Tenants))
	for i, url := range what.Tenants {
		catalog[i] = &hostdb.TenantCatalog{ID: fmt.Sprintf("%032x", i), DBURL: hostdb.Secret(url)}
	}
	return answering(func(ctx context.Context, tenant int) (string, error) {
		lease, err := pool.Lease(catalog[tenant])
		if err != nil {
			return "", err
		}
		defer lease.Release()
		return readName(lease.PG().QueryRow(ctx, pointQuery, 1))
	}), func() { _ = pool.Close(context.Background()) }, nil
}

// newGuarded serves a constant, or the tenant's query, behind one of the guards.
func newGuarded(ctx context.Context, what *servedBy) (http.Handler, func(), error) {
	keys, err := what.Keys.keys()
	if err != nil {
		return nil, nil, err
	}
	host, err := hostdb.Open(ctx, what.Host)
	if err != nil {
		return nil, nil, err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxConns: max(1, what.Budget), SQLiteDir: what.Dir})
	if err != nil {
		return nil, nil, err
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	switch what.Kind {
	case wholePath:
		next = tenantQuery(func(ctx context.Context) (string, error) {
			return readName(tenantdb.PG(ctx).QueryRow(ctx, pointQuery, 1))
		})
	case wholeOnFile:
		next = tenantQuery(func(ctx context.Context) (string, error) {
			return readFile(ctx, tenantdb.ReadDB(ctx))
		})
	}
	h, closed, err := newGuard(what.Guard, keys, host, pool, next)
	return h, func() {
		closed()
		_ = pool.Close(ctx)
		_ = host.Close()
	}, err
}

// tenantQuery answers with a query in the database of the request's tenant.
func tenantQuery(query func(context.Context) (string, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, err := query(r.Context())
		if err != nil {
			tenantdb.WriteError(w, r, err)
			return
		}
		_, _ = io.WriteString(w, name)
	}
}
