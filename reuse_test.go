package tenantdb_test

import (
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/tenantdb/tenantdb"
)

// TestAReusedIdentityLeadsToItsOwnFactsOnly: one cached token is used in two tenants, by two products with a
// host database each, and by an authenticator that makes another caller of a copy of its identity.
func TestAReusedIdentityLeadsToItsOwnFactsOnly(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, bob := w.user("ann"), w.user("bob")
		w.tenant("acme", ann)
		w.tenant("other", bob)
		w.tenant("both", ann)
		elsewhere := newWorld(t, w.engine, tenantdb.PoolConfig{})
		elsewhere.tenant("acme", elsewhere.user("eve"))
		elsewhere.tenant("there", elsewhere.user("ann"))

		cfg := w.config()
		asBob := cfg
		asBob.Authenticator = authFunc(func(r *http.Request) (*tenantdb.Identity, error) {
			id, err := cfg.Authenticator.Authenticate(r)
			if err != nil {
				return nil, err
			}
			other := *id
			other.Subject = "bob"
			return &other, nil
		})
		there := elsewhere.config()
		there.Authenticator = cfg.Authenticator
		serving := func(mw *tenantdb.Middleware) http.Handler {
			eventually(t, func() bool { return mw.Stats().SincePoll >= 0 }) // what is found before that is good for nothing after
			return mw.Handler(http.HandlerFunc(whoami))
		}
		here, copied, far := serving(w.middleware(cfg)), serving(w.middleware(asBob)), serving(elsewhere.middleware(there))

		type visit struct {
			h      http.Handler
			tenant string
			want   int
		}
		visits := []visit{
			{here, "acme", 200}, {here, "both", 200}, {here, "other", 403}, {here, "there", 403},
			{copied, "acme", 403}, {copied, "other", 200}, {copied, "both", 403},
			{far, "acme", 403}, {far, "there", 200}, {far, "both", 403},
		}
		pay := func(v visit) {
			if rec := do(v.h, request("ann", v.tenant)); rec.Code != v.want || v.want == 200 && rec.Body.String() != v.tenant {
				t.Errorf("%s: %d %s, want %d", v.tenant, rec.Code, rec.Body, v.want)
			}
		}
		for _, before := range visits {
			for _, after := range visits {
				pay(before)
				pay(after)
			}
		}
		together(8, func(int) {
			for range 100 {
				pay(visits[rand.IntN(len(visits))])
			}
		})
	})
}
