package tenantdbtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

// notesRequests read and write the notes.
func notesRequests() []*http.Request {
	return []*http.Request{
		httptest.NewRequest("GET", "/notes", nil),
		httptest.NewRequest("POST", "/notes", strings.NewReader("a note with {marker}")),
	}
}

// leaks are handlers behind the middleware that mix up tenants, each with what its failure says.
var leaks = map[string]struct {
	says    string
	handler func(*testing.T) http.HandlerFunc
}{
	"a kept handle": {"the body for one tenant has", func(t *testing.T) http.HandlerFunc {
		var once sync.Once
		var kept context.Context
		return func(w http.ResponseWriter, r *http.Request) {
			once.Do(func() {
				scope, _ := tenantdb.FromContext(r.Context())
				ctx, release := scope.Detach()
				kept = ctx
				t.Cleanup(release)
			})
			showNotes(w, tenantdb.DB(kept), kept)
		}
	}},
	"a kept handle with the request's context": {"is answered with 500", func(*testing.T) http.HandlerFunc {
		var once sync.Once
		var kept *sql.DB
		return func(w http.ResponseWriter, r *http.Request) {
			once.Do(func() { kept = tenantdb.DB(r.Context()) })
			showNotes(w, kept, r.Context())
		}
	}},
	"a shared cache": {"the body for one tenant has", func(*testing.T) http.HandlerFunc {
		var pages sync.Map // by path, which all tenants share
		return func(w http.ResponseWriter, r *http.Request) {
			if page, found := pages.Load(r.URL.Path); found {
				_, _ = io.WriteString(w, page.(string))
				return
			}
			page := httptest.NewRecorder()
			showNotes(page, tenantdb.DB(r.Context()), r.Context())
			pages.Store(r.URL.Path, page.Body.String())
			_, _ = w.Write(page.Body.Bytes())
		}
	}},
	"a goroutine in the background": {"a row of the table", func(*testing.T) http.HandlerFunc {
		var mu sync.Mutex
		var pending string // what is yet to be written, whoever's it is
		return func(w http.ResponseWriter, r *http.Request) {
			showNotes(w, tenantdb.DB(r.Context()), r.Context())
			body, _ := io.ReadAll(r.Body)
			scope, _ := tenantdb.FromContext(r.Context())
			ctx, release := scope.Detach()
			go func() {
				defer release()
				mu.Lock()
				text := pending
				pending = string(body)
				mu.Unlock()
				if text != "" {
					_ = add(ctx, text)
				}
			}()
		}
	}},
	"a missing Vary": {"a shared cache may show", func(*testing.T) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Accept-Encoding")
			showNotes(w, tenantdb.DB(r.Context()), r.Context())
		}
	}},
	"a Vary without the tenant": {"a shared cache may show", func(*testing.T) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Authorization, Cookie")
			showNotes(w, tenantdb.DB(r.Context()), r.Context())
		}
	}},
	"a header": {"the header X-Last", func(*testing.T) http.HandlerFunc {
		var mu sync.Mutex
		last := ""
		return func(w http.ResponseWriter, r *http.Request) {
			scope, _ := tenantdb.FromContext(r.Context())
			mu.Lock()
			w.Header().Set("X-Last", last)
			last = scope.Tenant.Slug
			mu.Unlock()
			showNotes(w, tenantdb.DB(r.Context()), r.Context())
		}
	}},
}

// showNotes writes the notes that a handle leads to.
func showNotes(w http.ResponseWriter, db *sql.DB, ctx context.Context) {
	rows, err := db.QueryContext(ctx, "SELECT body FROM notes")
	if err != nil {
		http.Error(w, "failed", http.StatusInternalServerError)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var body string
		if rows.Scan(&body) == nil {
			fmt.Fprintln(w, body)
		}
	}
}

func TestAssertIsolated_catchesLeaks(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, k *tenantdbtest.Kit) {
		for name, leak := range leaks {
			t.Run(name, func(t *testing.T) {
				h := k.Middleware.Handler(leak.handler(t))
				record(t, func(t testing.TB) {
					tenantdbtest.AssertIsolated(t, k, h, tenantdbtest.Isolation{}, notesRequests()...)
				}).says(leak.says)
			})
		}
	})
}

func TestAssertIsolated_passesACorrectHandler(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, k *tenantdbtest.Kit) {
		tenantdbtest.AssertIsolated(t, k, newRouter(k.Middleware), tenantdbtest.Isolation{},
			notesRequests()...)
		tenantdbtest.AssertIsolated(t, k, newRouter(k.Middleware), tenantdbtest.Isolation{
			Plant:   add,
			Prepare: func(tenant *hostdb.TenantCatalog) { k.Subscribe(tenant, "pro", "export") },
		}, append(notesRequests(), httptest.NewRequest("GET", "/export", nil))...)
	})
}

func TestAssertIsolated_failsIfItProvesNothing(t *testing.T) {
	k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes})
	assert := func(how tenantdbtest.Isolation, requests ...*http.Request) *recorder {
		return record(t, func(t testing.TB) {
			tenantdbtest.AssertIsolated(t, k, newRouter(k.Middleware), how, requests...)
		})
	}
	assert(tenantdbtest.Isolation{}).says("give at least one request")
	assert(tenantdbtest.Isolation{}, httptest.NewRequest("GET", "/export", nil)).says("refused with 403")
	assert(tenantdbtest.Isolation{}, httptest.NewRequest("GET", "/other", nil)).says("no response shows")
	assert(tenantdbtest.Isolation{Plant: func(context.Context, string) error {
		return errors.New("out of seeds")
	}}, notesRequests()...).says("out of seeds")

	bare := tenantdbtest.New(t, tenantdbtest.Options{})
	record(t, func(t testing.TB) {
		tenantdbtest.AssertIsolated(t, bare, newRouter(bare.Middleware), tenantdbtest.Isolation{},
			notesRequests()...)
	}).says("no table has a column for text")
	checked := fstest.MapFS{"00001_checked.sql": {Data: []byte(
		"-- +goose Up\nCREATE TABLE checked (body TEXT NOT NULL CHECK (body = 'x'));\n")}}
	keyed := tenantdbtest.New(t, tenantdbtest.Options{Migrations: checked})
	record(t, func(t testing.TB) {
		tenantdbtest.AssertIsolated(t, keyed, newRouter(keyed.Middleware), tenantdbtest.Isolation{},
			notesRequests()...)
	}).says("give Isolation.Plant")
}
