package tenantdbtest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func TestKit_failsOnAForgottenConnection_withItsLine(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, on *tenantdbtest.Kit) {
		options := tenantdbtest.Options{Migrations: notes}
		if strings.HasPrefix(on.Host.URI(), "postgres") {
			options.Postgres = tenantdbtest.StartPostgres(t)
		}
		for name, forget := range map[string]http.HandlerFunc{
			"forgottenRows": forgottenRows, "forgottenTx": forgottenTx, "forgottenConn": forgottenConn,
		} {
			failed := record(t, func(t testing.TB) {
				k := tenantdbtest.New(t, options)
				acme := k.Tenant("acme")
				k.Do(k.Middleware.Handler(forget), k.Request(k.Owner(acme), acme, "GET", "/", nil))
			})
			failed.says("was not given back")
			failed.says("tenantdbtest_test." + name + " at ")
			failed.says("leaks_test.go:")
		}
	})
}

func forgottenRows(_ http.ResponseWriter, r *http.Request) {
	_, _ = tenantdb.DB(r.Context()).QueryContext(r.Context(), "SELECT 1")
}

func forgottenTx(_ http.ResponseWriter, r *http.Request) {
	_, _ = tenantdb.DB(r.Context()).BeginTx(r.Context(), nil)
}

func forgottenConn(_ http.ResponseWriter, r *http.Request) {
	_, _ = tenantdb.DB(r.Context()).Conn(r.Context())
}

func TestKit_failsOnALeakedGoroutine_withItsLine(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	leak := func(options tenantdbtest.Options) *recorder {
		return record(t, func(t testing.TB) {
			k := tenantdbtest.New(t, options)
			k.Do(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				go leaked(stop)
			}), k.Request(nil, nil, "GET", "/", nil))
		})
	}
	failed := leak(tenantdbtest.Options{})
	failed.says("tenantdbtest_test.leaked, started by ")
	failed.says("leaks_test.go:")

	// Another test's goroutine is not this one's.
	other := record(t, func(t testing.TB) { tenantdbtest.New(t, tenantdbtest.Options{}) })
	if other.failures != nil {
		t.Errorf("another test fails: %q", other.failures)
	}
	if allowed := leak(tenantdbtest.Options{AllowGoroutine: func(stack string) bool {
		return strings.Contains(stack, "tenantdbtest_test.leaked")
	}}); allowed.failures != nil {
		t.Errorf("an allowed goroutine fails the test: %q", allowed.failures)
	}
}

func leaked(stop chan struct{}) { <-stop }
