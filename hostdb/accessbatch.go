package hostdb

import (
	"context"
	"encoding/json"
)

// AccessKey is a key of [DB.AccessAll]: a user in a tenant, or a user alone if Tenant is zero.
type AccessKey struct {
	User   UserKey
	Tenant TenantKey
}

// AccessAnswer answers an AccessKey.
type AccessAnswer struct {
	// Access contains only the User if the key has no tenant.
	Access
	// Err is ErrInvalid for a key without exactly one field, or with a malformed one.
	Err error
	// Sole is set if the key has no tenant: the id of the only tenant, neither dropped nor being
	// provisioned, in which the user has an active membership. It is "" if there is none, or several.
	Sole string
	// Basis are the ids of the tenants whose status decided Sole. BasisOpen says that there are more.
	Basis     []string
	BasisOpen bool
}

// maxBasis is how many tenants a Basis names. The query selects one more.
const maxBasis = 8

// accessKind identifies the query for a key by the columns that it names. A key without a tenant has no
// tenant column.
type accessKind struct{ user, tenant string }

// accessBatchParts are the parts of a batch's query in which the engines differ: where the keys come from,
// each with its number n, and how the tenants that decide Sole are joined. SQLite has no LATERAL and selects
// them by id.
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

// accessBatchQuery returns the query for a batch of keys of one kind. It returns at least one row for each
// key, whatever is unknown.
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

// accessBatchQueries are the queries for every kind of key.
var accessBatchQueries = queriesFor(accessBatchQuery, "", "id", "slug")

// accessGroup holds a batch's keys of one kind.
type accessGroup struct {
	at        []int // indexes of their answers
	who, what []string
	enterable []int // of users alone: how many tenants that can be entered were seen
}

// args returns the parameters of the group's query.
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

// AccessAll is [DB.Access] for many keys, with one query for all keys that name the same columns, whether
// they exist or not. An invalid key has its error in its answer, which has no errors of other kinds.
// AccessAll and Access run on connections of their own (Config.LookupConns), so that no other query delays
// them. Errors: ErrUnavailable.
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

// check returns the columns that a key names, and their values.
func (k AccessKey) check() (kind accessKind, who, what string, err error) {
	if kind.user, who, err = k.User.check(); err == nil && k.Tenant != (TenantKey{}) {
		kind.tenant, what, err = k.Tenant.check()
	}
	return kind, who, what, err
}

// ask queries a group and fills in its answers.
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
		if a.User == nil && a.Tenant == nil { // its first row; if both are unknown, its only one
			*a = *read
		} else {
			a.Subscriptions = append(a.Subscriptions, read.Subscriptions...)
		}
		return nil
	})
}

// numberedRow is a row that begins with the number of its key.
type numberedRow struct {
	scanner
	n int
}

// Scan implements scanner for the rest of the row.
func (r *numberedRow) Scan(dest ...any) error {
	return r.scanner.Scan(append([]any{&r.n}, dest...)...)
}

// readUser scans a row about a user alone and one of the tenants that decide Sole. Tenants that can be
// entered come first.
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
	if tenant == "" || *enterable == 2 { // after two of them no other one matters
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
