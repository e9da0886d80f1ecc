package pghosts_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestPooled_detectsAPooler(t *testing.T) {
	s := pgtest.Shared(t)
	direct := pgtest.Database(t)
	for name, test := range map[string]struct {
		url  string
		want bool
	}{
		"the server":   {direct, false},
		"transactions": {pgtest.StartPgBouncer(t, s).Through(t, direct), true},
		"sessions":     {pgtest.StartPgBouncer(t, s, "pool_mode=session").Through(t, direct), true},
	} {
		conn, err := pgx.Connect(t.Context(), test.url)
		must(t, err)
		defer conn.Close(context.Background())
		if got, err := pghosts.Pooled(t.Context(), conn.PgConn()); err != nil || got != test.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
