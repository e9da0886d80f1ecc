package hostdb

import (
	"context"
	"encoding/json"
)

// AccessKey is a question to [DB.AccessAll]: about a user in a tenant or, where Tenant is zero, about a user
// alone.
type AccessKey struct {
	User   UserKey
	Tenant TenantKey
}

// AccessAnswer answers an AccessKey.
type AccessAnswer struct {
	// Access has the User alone where the key has no tenant.
	Access
	// Err is why the question isn't one: ErrInvalid for a key without exactly one field, or outside its
	// grammar.
	Err error
	// Sole is told where the key has no tenant: the id of the one tenant, neither dropped nor being
	// provisioned, in which the user has an active membership; "" where there is none, or several.
	Sole string
	// Basis are the ids of the tenants by whose status Sole was found, and may be found otherwise later.
	// BasisOpen: there are more of them.
	Basis     []string
	BasisOpen bool
}

// maxBasis is how many tenants a Basis names. The query finds one more.
const maxBasis = 8

// accessKind says by which columns a key names its parts; no tenant column: there is no tenant.
type accessKind struct{ user, tenant string }

// The parts of a batch's query that differ: where the keys come from, each with its number n, and how the
// user's deciding tenants are joined. SQLite, which knows no LATERAL, finds them by id.
var accessBatchParts = map[engine]struct{ key, pair, tenants string }{
	postgres: {
		key:  "unnest($1::text[]) WITH ORDINALITY AS k(who, n)",
		pair: "unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(who, what, n)",
		tenants: `LEFT JOIN LATERAL (SELECT t.id, t.status FROM core_memberships m JOIN core_tenants t
			ON t.id = m.tenant_id
			WHERE m.user_id = u.id AND m.is_active ORDER BY ` + enterableFirst + ` LIMIT 9) t ON true`,
	},
	sqlite: {
		key:  "(SELECT key + 1 AS n, value AS who FROM json_each($1)) AS k",
		pair: "(SELECT key + 1 AS n, value ->> 0 AS who, value ->> 1 AS what FROM json_each($1)) AS k",
		tenants: `LEFT JOIN core_tenants t ON t.id IN (SELECT t.id FROM core_memberships m
			JOIN core_tenants t ON t.id = m.tenant_id
			WHERE m.user_id = u.id AND m.is_active ORDER BY ` + enterableFirst + ` LIMIT 9)`,
	},
}

const enterable = "t.status NOT IN ('dropped', 'provisioning')"
const enterableFirst = "(CASE WHEN " + enterable + " THEN 0 ELSE 1 END), t.id"

// accessBatchQuery is the query for a batch of keys of one kind. There is a row for each key at least,
// whatever is unknown.
func accessBatchQuery(e engine, kind accessKind) string {
	parts := accessBatchParts[e]
	if kind.tenant == "" {
		return "SELECT k.n, coalesce(t.id, ''), coalesce(" + enterable + ", false), " +
			accessUser.columnsOf("u") + " FROM " + parts.key + `
			LEFT JOIN core_users u ON u.` + kind.user + " = k.who " + parts.tenants + `
			ORDER BY k.n, ` + enterableFirst
	}
	return "SELECT k.n, " + accessColumns + " FROM " + parts.pair +
		accessJoins("u."+kind.user+" = k.who", "t."+kind.tenant+" = k.what") +
		accessSubscriptions[e] + `
		LEFT JOIN core_pricing_plans sp ON sp.id = s.plan_tier
		ORDER BY k.n, ` + bestFirst("s")
}

// accessBatchQueries are all of them.
var accessBatchQueries = func() map[engine]map[accessKind]string {
	queries := map[engine]map[accessKind]string{postgres: {}, sqlite: {}}
	for e, of := range queries {
		for _, user := range []string{"id", "oauth_id"} {
			for _, tenant := range []string{"", "id", "slug"} {
				of[accessKind{user, tenant}] = accessBatchQuery(e, accessKind{user, tenant})
			}
		}
	}
	return queries
}()

// accessGroup is the keys of one kind in a batch.
type accessGroup struct {
	at        []int // where their answers go
	who, what []string
	enterable []int // of users alone: how many enterable tenants of theirs were seen
}

// args are the parameters of the group's query.
func (g *accessGroup) args(e engine, kind accessKind) ([]any, error) {
	switch {
	case e == postgres && kind.tenant == "":
		return []any{g.who}, nil
	case e == postgres:
		return []any{g.who, g.what}, nil
	}
	var keys any = g.who
	if kind.tenant != "" {
		pairs := make([][2]string, len(g.who))
		for i := range pairs {
			pairs[i] = [2]string{g.who[i], g.what[i]}
		}
		keys = pairs
	}
	encoded, err := json.Marshal(keys)
	return []any{string(encoded)}, err
}

// AccessAll is Access for many keys, with one query for all that name their parts by the same columns,
// whether they exist or not. A key that isn't one fails alone, in its answer; no answer's Err is of another
// kind. It and Access run on connections of their own (Config.LookupConns), so that no other query holds them
// up. Errors: ErrUnavailable.
func (db *DB) AccessAll(ctx context.Context, keys []AccessKey) ([]AccessAnswer, error) {
	answers := make([]AccessAnswer, len(keys))
	groups := map[accessKind]*accessGroup{}
	for i := range keys {
		kind, who, what, err := keys[i].check()
		if err != nil {
			answers[i].Err = err
			continue
		}
		g := groups[kind]
		if g == nil {
			g = new(accessGroup)
			groups[kind] = g
		}
		g.at, g.who, g.what, g.enterable = append(g.at, i), append(g.who, who), append(g.what, what),
			append(g.enterable, 0)
	}
	for kind, g := range groups {
		if err := db.ask(ctx, kind, g, answers); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// check tells by which columns a key names its parts, and their values.
func (k AccessKey) check() (kind accessKind, who, what string, err error) {
	if kind.user, who, err = k.User.check(); err == nil && k.Tenant != (TenantKey{}) {
		kind.tenant, what, err = k.Tenant.check()
	}
	return kind, who, what, err
}

// ask answers a group.
func (db *DB) ask(ctx context.Context, kind accessKind, g *accessGroup, answers []AccessAnswer) error {
	args, err := g.args(db.engine, kind)
	if err != nil {
		return err
	}
	return db.lookUp(ctx, accessBatchQueries[db.engine][kind], args, func(row scanner) error {
		r := numberedRow{scanner: row}
		if kind.tenant == "" {
			return r.readUser(g, answers)
		}
		read, err := readAccess(&r)
		if err != nil {
			return err
		}
		a := &answers[g.at[r.n-1]].Access
		if a.User == nil && a.Tenant == nil { // its first row; where nothing is known it is the only one
			*a = *read
		} else {
			a.Subscriptions = append(a.Subscriptions, read.Subscriptions...)
		}
		return nil
	})
}

// numberedRow is a row that begins with the number of the key that it answers.
type numberedRow struct {
	scanner
	n int
}

// Scan implements scanner for the rest of the row.
func (r *numberedRow) Scan(dest ...any) error {
	return r.scanner.Scan(append([]any{&r.n}, dest...)...)
}

// readUser reads a row about a user alone, and one of the tenants that decide which is the sole one: those
// that can be entered first.
func (r *numberedRow) readUser(g *accessGroup, answers []AccessAnswer) error {
	var user GlobalUser
	var tenant string
	counts := cell{new(bool)}
	if err := r.Scan(accessUser.scanTargets(&user, []any{&tenant, &counts})...); err != nil {
		return err
	}
	a, enterable := &answers[g.at[r.n-1]], &g.enterable[r.n-1]
	if a.User == nil {
		a.User = nilIfAbsent(&user, user.ID)
	}
	if tenant == "" || *enterable == 2 { // as long as both are there, no third matters
		return nil
	}
	if *counts.field.(*bool) {
		a.Sole = ""
		if *enterable++; *enterable == 1 {
			a.Sole = tenant
		}
	}
	if len(a.Basis) == maxBasis {
		a.BasisOpen = true
	} else {
		a.Basis = append(a.Basis, tenant)
	}
	return nil
}
