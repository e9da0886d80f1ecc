package tenantdb_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
)

func TestAQueryBesideItsOwnTransactionAtACapOfOneIsNamedAndNoDeadlock(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConnsPerTenant: 1, AcquireTimeout: time.Minute})
	w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	for name, query := range map[string]func(ctx context.Context) error{
		"PG beside PG": func(ctx context.Context) error {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			defer tx.Rollback(ctx)
			_, err = tenantdb.PG(ctx).Exec(ctx, "SELECT 1")
			return err
		},
		"DB beside DB": func(ctx context.Context) error {
			tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
			must(t, err)
			defer tx.Rollback()
			return tenantdb.DB(ctx).PingContext(ctx)
		},
		"DB beside unread rows of PG": func(ctx context.Context) error {
			rows, err := tenantdb.PG(ctx).Query(ctx, "SELECT generate_series(1, 10)")
			must(t, err)
			defer rows.Close()
			return tenantdb.DB(ctx).PingContext(ctx)
		},
		"with a context of its own within the request's": func(ctx context.Context) error {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			defer tx.Rollback(ctx)
			inner, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			return tenantdb.PG(ctx).QueryRow(inner, "SELECT 1").Scan(new(int))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var nested error
			h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				nested = query(r.Context())
				tenantdb.WriteError(rw, r, nested)
			}))
			began := time.Now()
			rec := do(h, request("ann", "acme"))
			if !errors.Is(nested, tenantdb.ErrBusy) || !strings.Contains(nested.Error(), "nested acquire") {
				t.Errorf("the query = %v", nested)
			}
			if rec.Code != 503 || code(t, rec) != "busy" || time.Since(began) > 30*time.Second {
				t.Errorf("answered %d %s after %v", rec.Code, rec.Body, time.Since(began))
			}
			if rec := do(mw.Handler(http.HandlerFunc(whoami)), request("ann", "acme")); rec.Body.String() != "acme" {
				t.Errorf("the next request: %d %s", rec.Code, rec.Body)
			}
		})
	}
}
