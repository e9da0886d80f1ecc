package tenantdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jobs"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/stripehook"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

// planted is the secret that must not be shown.
const planted = "c4narySecret0123456789abcdefghij"

// shown is a value in the forms in which programs hold one.
type shown struct {
	plain, hidden []any
}

// printing returns the forms of a value. In an unexported field fmt prints the contents and calls no method.
func printing[T any](v T) shown {
	return shown{
		plain: []any{
			v, &v, []T{v}, map[string]T{"k": v}, struct{ V T }{v}, struct{ V *T }{&v}, struct{ V any }{v},
		},
		hidden: []any{
			struct{ v T }{v}, struct{ v *T }{&v}, struct{ v any }{v}, &struct{ v T }{v}, []struct{ v T }{{v}},
		},
	}
}

// verbs are those for which fmt calls the methods of a value. It calls none for %w, nor for %p of a value
// that is no pointer; go vet refuses both.
var verbs = []string{
	"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%c", "%U", "%e", "%T", "%10.3v", "%-.3s",
	"%y",
}

// text returns everything that the values print with the verbs.
func text(values []any, verbs ...string) string {
	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range verbs {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("x", "v", v, slog.Group("g", "v", v))
		}
		encoded, _ := json.Marshal(v) // values that JSON can't encode aren't shown
		out.Write(encoded)
	}
	return out.String()
}

// leak returns the form in which a text shows a secret, if it does.
func leak(text, secret string) (form string, found bool) {
	decimal := fmt.Sprint([]byte(secret[:8]))
	for _, form := range []string{
		secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("% x", secret),
		decimal[1 : len(decimal)-1],
		fmt.Sprintf("%#x", secret[:1]) + ", " + fmt.Sprintf("%#x", secret[1:2]) + ", " + fmt.Sprintf("%#x",
			secret[2:3]) + ", " + fmt.Sprintf("%#x", secret[3:4]),
	} {
		if strings.Contains(text, form) {
			return form, true
		}
	}
	return "", false
}

// secretive is a product whose host database, tenant and tokens have planted secrets, and a request in it.
func secretive(t *testing.T, engine string) (w *world, r *http.Request, secrets []string) {
	w = newWorld(t, engine, tenantdb.PoolConfig{})
	secrets = []string{planted}
	if engine == "postgres" {
		admin, err := pgx.Connect(t.Context(), w.host.URI())
		must(t, err)
		defer admin.Close(t.Context())
		role := "secretive_" + hostdb.NewID()
		_, err = admin.Exec(t.Context(), "CREATE ROLE "+role+" SUPERUSER LOGIN PASSWORD '"+planted+"'")
		must(t, err)
		u, err := url.Parse(w.host.URI())
		must(t, err)
		u.User = url.UserPassword(role, planted)
		w.host, err = hostdb.Open(t.Context(), u.String())
		must(t, err)
		t.Cleanup(func() { _ = w.host.Close() })
		w.fleet, err = fleet.New(fleet.Config{
			Host: w.host, Pool: w.pool, Migrations: schema, NoTemplate: true,
		})
		must(t, err)
	}
	ann := w.user("ann")
	ann.PasswordHash = planted
	must(t, w.host.Users.Update(t.Context(), ann))
	acme := w.tenant("acme", ann)
	if u, err := url.Parse(acme.DBURL.Reveal()); err == nil && engine == "postgres" {
		password, _ := u.User.Password()
		secrets = append(secrets, password)
	}
	served := make(chan *http.Request, 1)
	letIn(t, w.middleware(w.config()).Handler, request("ann", "acme"),
		func(rw http.ResponseWriter, r *http.Request) {
			scope, _ := tenantdb.FromContext(r.Context())
			ctx, release := scope.Detach()
			t.Cleanup(release)
			whoami(rw, r)
			served <- r.WithContext(ctx)
		})
	r = <-served
	r.Header = nil // the token in it is the client's own
	return w, r, secrets
}

// values returns a value of each exported type that may lead to a secret. Those in everywhere are pointers,
// or hold only pointers, and hide it wherever they are. Those in callable are rows and configurations, which
// hide it where fmt can call their methods.
func values(t *testing.T, w *world, r *http.Request, signer *tenantdbtest.Issuer) (everywhere,
	callable map[string]shown) {
	ctx := r.Context()
	scope, _ := tenantdb.FromContext(ctx)
	lease, err := w.pool.Lease(scope.Tenant)
	must(t, err)
	t.Cleanup(lease.Release)
	mw := w.middleware(w.config())
	hook, err := stripehook.New(w.host, stripehook.Config{Secrets: []string{planted}})
	must(t, err)
	secretAuth := jwtauth.Config{
		Issuer: issuer, Audience: audience, Algorithms: []string{"HS256"}, Secret: []byte(planted),
	}
	auth, err := jwtauth.New(secretAuth)
	must(t, err)
	tx, err := w.host.Begin(ctx)
	must(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	worker, err := jobs.New(jobs.Config{
		Host: w.host, Middleware: mw, Handlers: map[string]jobs.Handler{
			"x": func(context.Context, *hostdb.SystemJob) error { return nil },
		},
	})
	must(t, err)
	t.Cleanup(func() { _ = worker.Close(context.Background()) })
	conn, err := tenantdb.DB(ctx).Conn(ctx)
	must(t, err)
	stmt, err := conn.PrepareContext(ctx, "SELECT name FROM me")
	must(t, err)
	t.Cleanup(func() { _ = stmt.Close(); _ = conn.Close() })
	var visited *fleet.Tenant
	_, err = w.fleet.Each(ctx, fleet.EachOptions{}, func(_ context.Context, tenant *fleet.Tenant) error {
		visited = tenant
		return nil
	})
	must(t, err)
	everywhere = map[string]shown{
		"tenantdb.Middleware": printing(mw), "tenantdb.Pool": printing(w.pool),
		"tenantdb.Lease": printing(lease), "tenantdb.Scope": printing(scope),
		"tenantdb.Authenticator": printing(tenantdb.Authenticator(auth)),
		"tenantdb.Identity":      printing(scope.Identity),
		"tenantdb.KeptIdentity":  printing(new(tenantdb.KeptIdentity)),
		"tenantdb.Error":         printing(&tenantdb.Error{Code: "busy", Err: tenantdb.ErrBusy}),
		"tenantdb.Config":        printing(w.config()),
		"context.Context":        printing(ctx), "http.Request": printing(r),
		"sql.DB": printing(tenantdb.DB(ctx)), "sql.Conn": printing(conn), "sql.Stmt": printing(stmt),
		"hostdb.DB": printing(w.host), "hostdb.Tx": printing(tx), "hostdb.Tables": printing(w.host.Tables),
		"hostdb.Users":   printing(w.host.Users),
		"hostdb.Tenants": printing(w.host.Tenants), "hostdb.Memberships": printing(w.host.Memberships),
		"hostdb.Subscriptions": printing(w.host.Subscriptions),
		"hostdb.Plans":         printing(w.host.Plans), "hostdb.AuditLogs": printing(w.host.AuditLogs),
		"hostdb.Jobs":             printing(w.host.Jobs),
		"hostdb.WebhookEvents":    printing(w.host.WebhookEvents),
		"hostdb.MigrationRuns":    printing(w.host.MigrationRuns),
		"hostdb.SchemaSets":       printing(w.host.SchemaSets),
		"hostdb.MigrationTenants": printing(w.host.MigrationTenants),
		"hostdb.Table":            printing(w.host.Users.Table),
		"jwtauth.Authenticator":   printing(auth), "fleet.Fleet": printing(w.fleet),
		"fleet.Tenant": printing(visited),
		"jobs.Config":  printing(jobs.Config{Host: w.host, Middleware: mw}),
		"jobs.Worker":  printing(worker), "stripehook.New": printing(hook),
		"tenantdbtest.Issuer": printing(signer),
		"tenantdbtest.Kit":    printing(tenantdbtest.New(t, tenantdbtest.Options{})),
	}
	if w.engine == "postgres" {
		taken, err := tenantdb.PG(ctx).Acquire(ctx)
		must(t, err)
		t.Cleanup(taken.Release)
		everywhere["tenantdb.PGX"], everywhere["tenantdb.Conn"] = printing(tenantdb.PG(ctx)), printing(taken)
	}
	callable = map[string]shown{
		"hostdb.Secret":        printing(hostdb.Secret(planted)),
		"hostdb.GlobalUser":    printing(hostdb.GlobalUser{PasswordHash: planted}),
		"hostdb.TenantCatalog": printing(hostdb.TenantCatalog{DBURL: "sqlite:" + planted}),
		"hostdb.Access":        printing(hostdb.Access{User: scope.User, Tenant: scope.Tenant}),
		"hostdb.AccessAnswer": printing(hostdb.AccessAnswer{
			Access: hostdb.Access{User: scope.User, Tenant: scope.Tenant},
		}),
		"hostdb.Config":        printing(hostdb.Config{URL: planted}),
		"jwtauth.Config":       printing(secretAuth),
		"jwtauth.IssuerConfig": printing(jwtauth.IssuerConfig{Issuer: issuer, Secret: []byte(planted)}),
		"fleet.Inventory": printing(fleet.Inventory{
			Missing: []*hostdb.TenantCatalog{{DBURL: "sqlite:" + planted}},
		}),
		"fleet.Config":      printing(fleet.Config{Host: w.host, Pool: w.pool, Server: planted}),
		"stripehook.Config": printing(stripehook.Config{Secrets: []string{planted}}),
	}
	return everywhere, callable
}

// harmless are the exported types that lead to no secret.
var harmless = strings.Fields(`
	fleet.DropInfo fleet.EachOptions fleet.MigrateOptions fleet.Observer fleet.ProvisionInfo fleet.Report
	fleet.Result fleet.Spec fleet.TenantStatus hostdb.AccessKey hostdb.Change hostdb.Delivery
	hostdb.ErasedReport hostdb.ExportedRow hostdb.Fault hostdb.FieldError hostdb.Filter hostdb.HostAuditLog
	hostdb.Membership hostdb.MigrationPlan hostdb.MigrationRun hostdb.MigrationTenant hostdb.PlannedTenant
	hostdb.PricingPlan hostdb.QueueDepth hostdb.Stats hostdb.StripeWebhookEvent hostdb.Subscribed
	hostdb.Subscription hostdb.SubscriptionStatus hostdb.SystemJob hostdb.TenantKey hostdb.UserKey
	jobs.ClaimInfo jobs.DepthInfo jobs.EndInfo jobs.Handler jobs.Observer jobs.Result jwtauth.CacheConfig
	stripehook.DeliveryInfo stripehook.Event stripehook.Fetcher stripehook.Mode stripehook.Observer
	tenantdb.BreakerInfo tenantdb.CacheConfig tenantdb.CloseInfo tenantdb.DecisionEndInfo
	tenantdb.DecisionStartInfo tenantdb.EvictionInfo tenantdb.LogHandlerOptions tenantdb.LookupEndInfo
	tenantdb.LookupStartInfo tenantdb.Observer tenantdb.OpenEndInfo tenantdb.OpenStartInfo
	tenantdb.Operation tenantdb.PollInfo tenantdb.PoolConfig tenantdb.PoolObserver tenantdb.PoolStats
	tenantdb.Reason tenantdb.Redirects tenantdb.RefusalInfo tenantdb.ResetInfo tenantdb.RetirementInfo
	tenantdb.Rules tenantdb.SQLiteStats tenantdb.ServerStats tenantdb.Source tenantdb.Stats
	tenantdb.SubscriptionPolicy tenantdb.TenantStats tenantdb.UserKey tenantdb.WaitEndInfo
	tenantdb.WaitStartInfo tenantdbtest.Clock tenantdbtest.Isolation tenantdbtest.Options`)

// TestSecret_isShownByNoExportedValue prints a value of every exported type that may lead to a secret.
func TestSecret_isShownByNoExportedValue(t *testing.T) {
	if underRace {
		t.Skip("fmt reads fields that other goroutines write; test.sh also runs it without the detector")
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w, r, secrets := secretive(t, engine)
			signer := tenantdbtest.NewIssuer()
			everywhere, callable := values(t, w, r, signer)
			secrets = append(secrets, string(signer.Config().Secret))
			for _, secret := range secrets {
				for name, v := range everywhere {
					for place, forms := range map[string][]any{
						"": v.plain, " in an unexported field": v.hidden,
					} {
						all := text(forms, append(verbs, "%p", "%w")...)
						if form, found := leak(all, secret); found {
							at := strings.Index(all, form)
							t.Errorf("%s%s shows a secret: …%s", name, place, all[max(0, at-300):at+4])
						}
					}
				}
				for name, v := range callable {
					if form, found := leak(text(v.plain, verbs...), secret); found {
						t.Errorf("%s shows a secret, as %q", name, form)
					}
				}
			}
			if engine == "postgres" {
				checkComplete(t, slices.Concat(slices.Collect(maps.Keys(everywhere)),
					slices.Collect(maps.Keys(callable)), harmless))
			}
		})
	}
}

// checkComplete fails if the module exports a type that is not among the known ones.
func checkComplete(t *testing.T, known []string) {
	for dir, name := range map[string]string{
		".": "tenantdb", "hostdb": "hostdb", "jwtauth": "jwtauth", "fleet": "fleet", "jobs": "jobs",
		"stripehook": "stripehook", "tenantdbtest": "tenantdbtest",
	} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		must(t, err)
		if len(files) == 0 {
			t.Errorf("%s has no files", dir)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, parser.SkipObjectResolution)
			must(t, err)
			for _, d := range file.Decls {
				types, ok := d.(*ast.GenDecl)
				if !ok || types.Tok != gotoken.TYPE {
					continue
				}
				for _, s := range types.Specs {
					if spec := s.(*ast.TypeSpec); spec.Name.IsExported() &&
						!slices.Contains(known, name+"."+spec.Name.Name) {
						t.Errorf("%s.%s is new: print a value of it here, or add it to harmless", name,
							spec.Name)
					}
				}
			}
		}
	}
}

// TestMiddleware_printsNoSecret puts secrets wherever one can be, and looks for them in logs, answers and
// every printed form.
func TestMiddleware_printsNoSecret(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		const canary = "c4nary"
		acme := w.tenant("acme", w.user("ann"))
		var log bytes.Buffer
		cfg := w.config()
		cfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		mw := w.middleware(cfg)
		printed := false
		h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			printed = printed || strings.Contains(s.Tenant.DBURL.Reveal(), canary)
			for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
				for _, v := range []any{s, *s.Tenant, mw, w.pool, w.host, r.Context()} {
					fmt.Fprintf(&log, form+"\n", v)
				}
			}
			whoami(rw, r)
		}))
		var answers []string
		for _, url := range []string{
			"postgres://user:" + canary + "@127.0.0.1:1/gone?sslmode=disable",
			"postgres://user:" + canary + "@127.0.0.1:notaport/x",
			"postgres://user:" + canary + "@127.0.0.1:1/x?sslmode=" + canary,
			"mysql://" + canary + "@h/x",
			canary,
		} {
			setURL(url)(w, acme)
			eventually(t, func() bool {
				rec := do(h, request("ann", "acme"))
				answers = append(answers, rec.Body.String())
				return rec.Code == 503
			})
		}
		r := request("ann", canary+"!")
		r.Header.Set("Authorization", "Bearer "+canary)
		answers = append(answers, do(h, r).Body.String())
		if log.Len() == 0 || !printed {
			t.Fatalf("%d bytes were logged; a scope with the secret was printed: %v", log.Len(), printed)
		}
		for _, text := range append(answers, log.String()) {
			if i := strings.Index(text, canary); i >= 0 {
				t.Fatalf("the secret shows: …%s…", text[max(0, i-200):min(len(text), i+100)])
			}
		}
	})
}
