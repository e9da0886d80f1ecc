package tenantdb_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestEnterAsDecidesAsForARequest compares what a request is answered with what EnterAs returns.
func TestEnterAsDecidesAsForARequest(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		w.user("eve")
		acme, unpaid := w.tenant("acme", ann), w.tenant("unpaid", ann)
		setTier("pro")(w, unpaid)
		setStatus(hostdb.TenantSuspended)(w, w.tenant("closed", ann))
		mw := w.middleware(w.config())
		for _, test := range []struct {
			subject, tenant string
			rules           tenantdb.Rules
		}{
			{"ann", "acme", tenantdb.Rules{}}, {"ann", acme.ID, tenantdb.Rules{}}, {"eve", "acme", tenantdb.Rules{}}, {"nobody", "acme", tenantdb.Rules{}},
			{"ann", "unpaid", tenantdb.Rules{}}, {"ann", "unpaid", tenantdb.Rules{AllowInactive: true}}, {"ann", "closed", tenantdb.Rules{}},
			{"ann", "nosuch", tenantdb.Rules{}}, {"ann", "No_Name", tenantdb.Rules{}}, {"ann", "", tenantdb.Rules{AllowAnonymous: true}},
		} {
			key := hostdb.TenantKey{Slug: test.tenant}
			if hostdb.ValidID(test.tenant) {
				key = hostdb.TenantKey{ID: test.tenant}
			}
			want := do(mw.HandlerWith(test.rules, http.HandlerFunc(whoami)), request(test.subject, test.tenant))
			id := &tenantdb.Identity{Issuer: issuer, Subject: test.subject}
			ctx, leave, err := mw.EnterAs(t.Context(), id, key, test.rules)
			if tenantdb.StatusCode(err) != want.Code || err != nil && err.(*tenantdb.Error).Code != code(t, want) {
				t.Errorf("%+v: a request is answered %d %s, EnterAs returns %v", test, want.Code, want.Body, err)
			}
			if err != nil {
				continue
			}
			var name string
			must(t, tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT name FROM me").Scan(&name))
			if s, _ := tenantdb.FromContext(ctx); s.User.ID != ann.ID || s.Identity == id || name != want.Body.String() {
				t.Errorf("%+v: entered %s as %+v", test, name, s)
			}
			leave()
		}
		must(t, w.pool.Drain(t.Context(), acme.ID))
	})
}

// TestEnterAsRefusesWhatNobodyVouchesFor, and names without a meaning.
func TestEnterAsRefusesWhatNobodyVouchesFor(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.Authenticator = withRevocation{cfg.Authenticator}
	mw := w.middleware(cfg)
	slug := hostdb.TenantKey{Slug: "acme"}
	for _, test := range []struct {
		name string
		id   *tenantdb.Identity
		key  hostdb.TenantKey
		want error
	}{
		{"nobody", nil, slug, tenantdb.ErrNoCredential},
		{"an ended credential", &tenantdb.Identity{Issuer: issuer, Subject: "ann", ExpiresAt: noon}, slug, tenantdb.ErrInvalidCredential},
		{"a revoked credential", &tenantdb.Identity{Issuer: issuer, Subject: "ann", Claims: map[string]any{"revoked": true}}, slug, tenantdb.ErrInvalidCredential},
		{"another issuer", &tenantdb.Identity{Issuer: "https://other.example", Subject: "ann"}, slug, tenantdb.ErrInvalidCredential},
		{"no subject", &tenantdb.Identity{Issuer: issuer}, slug, tenantdb.ErrInvalidCredential},
		{"no tenant", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{}, tenantdb.ErrNoTenant},
		{"both names", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{ID: acme.ID, Slug: "acme"}, tenantdb.ErrInvalidTenant},
		{"a slug as id", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{ID: "acme"}, tenantdb.ErrInvalidTenant},
		{"an id as slug", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{Slug: acme.ID}, tenantdb.ErrInvalidTenant},
	} {
		if ctx, leave, err := mw.EnterAs(t.Context(), test.id, test.key, tenantdb.Rules{AllowAnonymous: true}); !errors.Is(err, test.want) || ctx != nil || leave != nil {
			t.Errorf("%s: %v; want %v", test.name, err, test.want)
		}
	}
	id := &tenantdb.Identity{Issuer: issuer, Subject: "ann", ExpiresAt: noon.Add(time.Minute), Claims: map[string]any{"a": "b"}}
	ctx, leave, err := mw.EnterAs(t.Context(), id, slug, tenantdb.Rules{})
	must(t, err)
	defer leave()
	id.Subject, id.Claims["revoked"] = "eve", true // the scope has an identity of its own
	s, _ := tenantdb.FromContext(ctx)
	must(t, s.Check(t.Context()))
	w.clock.Set(noon.Add(time.Minute))
	if err := s.Check(t.Context()); !errors.Is(err, tenantdb.ErrInvalidCredential) {
		t.Errorf("Check after the credential's end = %v", err)
	}
	closed, err := tenantdb.New(cfg)
	must(t, err)
	must(t, closed.Close(t.Context()))
	if _, _, err := closed.EnterAs(t.Context(), id, slug, tenantdb.Rules{}); !errors.Is(err, tenantdb.ErrHostUnavailable) {
		t.Errorf("a closed middleware: %v", err)
	}
}

// withRevocation revokes credentials by a claim.
type withRevocation struct{ tenantdb.Authenticator }

func (withRevocation) Issuers() []string { return []string{issuer} }

func (withRevocation) Revalidate(_ context.Context, id *tenantdb.Identity) error {
	if id.Claims["revoked"] == true {
		return tenantdb.ErrInvalidCredential
	}
	return nil
}

// TestPoolAndEngineTellWhatAProductIsMadeOf, also where New made the pool.
func TestPoolAndEngineTellWhatAProductIsMadeOf(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		cfg := w.config()
		given := w.middleware(cfg).Pool()
		cfg.Pool = nil
		if made := w.middleware(cfg).Pool(); given != w.pool || made == nil || made == given || w.host.Engine() != w.engine {
			t.Errorf("pools %p and %p, engine %q", given, made, w.host.Engine())
		}
	})
}
