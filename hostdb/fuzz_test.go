package hostdb_test

import (
	"database/sql"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tenantdb/tenantdb/hostdb"
)

var (
	slugGrammar = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)
	idGrammar   = regexp.MustCompile(`\A[0-9a-f]{32}\z`)
)

func FuzzNames(f *testing.F) {
	for _, seed := range []string{"", "a", "-", "a-", "-a", "a-b", "A", "a_b", "ä", "a\n",
		strings.Repeat("a", 32), strings.Repeat("z", 32), strings.Repeat("a", 31), strings.Repeat("b", 63),
		strings.Repeat("b", 64), hostdb.NewID(), strings.Repeat("A", 32), "a\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id := idGrammar.MatchString(s)
		if got := hostdb.ValidID(s); got != id {
			t.Errorf("ValidID(%q) = %v", s, got)
		}
		if got, want := hostdb.ValidSlug(s), slugGrammar.MatchString(s) && !id; got != want {
			t.Errorf("ValidSlug(%q) = %v", s, got)
		}
	})
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"", "sqlite:", "sqlite::memory:", "sqlite:a?_pragma=x", "sqlite:a#b%41 c",
		"postgres://u:p@h/d", "postgresql://h?password=x",
		"postgres://u:p%40@[::1]:5432/d?sslmode=disable", "postgres:u:p@h", "mysql://x", "sqlite:/a\nb",
		"postgres://u:s3cret@h:x/d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		_, path, dsn, err := hostdb.ParseURL(given)
		if err != nil {
			var field *hostdb.FieldError
			if !errors.Is(err, hostdb.ErrInvalid) || !errors.As(err, &field) {
				t.Fatalf("ParseURL(%q): %v", given, err)
			}
			return
		}
		if path == "" { // package dburl tests PostgreSQL's
			return
		}
		name, query, _ := strings.Cut(strings.TrimPrefix(dsn, "file:"), "?")
		decoded, err := url.PathUnescape(name)
		if err != nil || decoded != path || query != "" || strings.ContainsAny(name, "#;&") {
			t.Fatalf("%q became %q", given, dsn)
		}
	})
}

// A text that the library accepts is read back unchanged. It refuses all others and names the field.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"", "a", "ä", "\x00", "\xff", "\u2028", strings.Repeat("x", 513),
		"'; DROP TABLE core_users; --", "\ufeff", "$1", "%s"} {
		f.Add(seed)
	}
	var db *hostdb.DB
	f.Fuzz(func(t *testing.T, s string) {
		if db == nil {
			db = memory()
		}
		tenant := &hostdb.TenantCatalog{Name: s}
		err := db.Tenants.Insert(t.Context(), tenant)
		if good := s != "" && len(s) <= 512 && utf8.ValidString(s) && !strings.Contains(s, "\x00"); !good {
			wantField(t, err, hostdb.ErrInvalid, "name")
			return
		}
		must(t, err)
		got, err := db.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if got.Name != s {
			t.Errorf("%q came back as %q", s, got.Name)
		}
	})
}

// Clients choose the page and the filters of a list. The result is a page, or ErrInvalid with the field.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"", "name", "id", "db_url", "1=1; --", "name = ''", "\x00", "\xff",
		"active_owners"} {
		f.Add(seed, seed, seed, 3)
	}
	f.Add("is_active", "true", "", -1)
	var db *hostdb.DB
	f.Fuzz(func(t *testing.T, column, value, after string, limit int) {
		if db == nil {
			db = memory()
			must(t, db.Tenants.Insert(t.Context(),
				&hostdb.TenantCatalog{ID: strings.Repeat("a", 32), Name: "Acme"}))
		}
		page, err := db.Tenants.List(t.Context(), hostdb.Where(column, value), hostdb.After(after),
			hostdb.Limit(limit))
		var field *hostdb.FieldError
		if err != nil && (!errors.Is(err, hostdb.ErrInvalid) || !errors.As(err, &field)) {
			t.Fatalf("List(%q = %q, after %q, %d): %v", column, value, after, limit, err)
		}
		if len(page) > 1 || len(page) == 1 && (limit == 0 || page[0].ID <= after) {
			t.Fatalf("List(%q = %q, after %q, %d) = %v", column, value, after, limit, page)
		}
	})
}

// A token names the user, a request the tenant. The result is an answer, or ErrInvalid with the field.
func FuzzKeys(f *testing.F) {
	for _, seed := range []string{"", "auth|1", "acme", "Acme", "a' OR '1'='1", "\x00", "\xff",
		strings.Repeat("a", 32), strings.Repeat("x", 513)} {
		f.Add(seed, seed)
	}
	var db *hostdb.DB
	f.Fuzz(func(t *testing.T, user, tenant string) {
		if db == nil {
			db = memory()
			must(t, db.Users.Insert(t.Context(), &hostdb.GlobalUser{Email: "a", OAuthID: "auth|1"}))
			must(t, db.Tenants.Insert(t.Context(), &hostdb.TenantCatalog{Name: "Acme", Slug: "acme"}))
		}
		for _, byUser := range []hostdb.UserKey{{ID: user}, {OAuthID: user}} {
			for _, byTenant := range []hostdb.TenantKey{{ID: tenant}, {Slug: tenant}} {
				got, err := db.Access(t.Context(), byUser, byTenant)
				var field *hostdb.FieldError
				if err != nil {
					if !errors.Is(err, hostdb.ErrInvalid) || !errors.As(err, &field) {
						t.Fatalf("Access(%q, %q): %v", user, tenant, err)
					}
					continue
				}
				if (got.User != nil) != (byUser.OAuthID == "auth|1") ||
					(got.Tenant != nil) != (byTenant.Slug == "acme") {
					t.Fatalf("Access(%q, %q) = %+v", user, tenant, got)
				}
			}
		}
	})
}

// The library can read any time that another program may store.
func FuzzStoredTime(f *testing.F) {
	for _, seed := range []string{"", "now", "2026-01-01", "2026-12-31T23:59:59.999999Z",
		"2026-02-30T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z", "2026-01-01T24:00:00.000000Z",
		"2026-01-01T23:59:60.000000Z", "2461042.5", "2026-01-01T00:00:00.000000z",
		"2026-01-01T00:00:00+01:00"} {
		f.Add(seed)
	}
	var db *hostdb.DB
	var pool *sql.DB
	var user *hostdb.GlobalUser
	f.Fuzz(func(t *testing.T, s string) {
		if db == nil {
			db = memory()
			user = &hostdb.GlobalUser{Email: "a"}
			must(t, db.Users.Insert(t.Context(), user))
			pool = db.BareWriter()
		}
		_, err := pool.Exec("UPDATE core_users SET created_at = $1", s)
		if err != nil {
			return
		}
		got, err := db.Users.Get(t.Context(), user.ID)
		if err != nil || got.CreatedAt.Format("2006-01-02T15:04:05.000000Z") != s {
			t.Fatalf("%q was stored and read as %v, %v", s, got, err)
		}
	})
}

// The database itself enforces the grammars, for programs that don't use the library.
func TestSchema_checksApplyToOtherPrograms(t *testing.T) {
	for name, place := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(place)})
			pool := raw(t, db)
			for _, slug := range []string{"-", "a-", "-a", "A", "a_b", "ä", "a b", "",
				strings.Repeat("a", 32), strings.Repeat("b", 64), "a\nb", "a\n"} {
				if insertSlug(pool, slug) == nil {
					t.Errorf("the slug %q was stored", slug)
				}
			}
			for _, slug := range []string{"a", "1", "a-b", strings.Repeat("a", 31), strings.Repeat("z", 32),
				strings.Repeat("b", 63), "a--b"} {
				must(t, insertSlug(pool, slug))
			}
			id := newTenant(t, db).ID
			for _, statement := range []string{
				"INSERT INTO core_tenants (id, name) VALUES ('x', 'n')",
				"INSERT INTO core_tenants (id, name) VALUES (upper('" + hostdb.NewID() + "'), 'n')",
				"UPDATE core_tenants SET status = 'open'", "UPDATE core_tenants SET name = NULL",
				"UPDATE core_tenants SET schema_version = 0",
				"UPDATE core_tenants SET active_owners = -1", "INSERT INTO core_users (email) VALUES ('')",
				"INSERT INTO core_subscriptions (tenant_id, amount_cents) VALUES ('" + id + "', -1)",
				"INSERT INTO core_subscriptions (tenant_id, payment_type) VALUES ('" + id + "', 'cash')",
				"INSERT INTO core_subscriptions (tenant_id) VALUES ('" + hostdb.NewID() + "')",
				"INSERT INTO core_memberships (user_id, tenant_id, role) VALUES ('" + id + "', '" + id +
					"', 'Owner')",
				"INSERT INTO core_pricing_plans (id, name, currency) VALUES ('p', 'n', 'USD')",
				"INSERT INTO core_pricing_plans (id, name, amount_yearly) VALUES ('p', 'n', -1)",
				"INSERT INTO sys_jobs (job_type, status) VALUES ('x', 'done')",
				"INSERT INTO core_stripe_webhook_events (event_id, event_type, status) " +
					"VALUES ('e', 'x', 'new')",
				"UPDATE core_tenants SET is_active = 'perhaps'",
				"UPDATE core_tenants SET schema_version = 'one'",
				"INSERT INTO core_pricing_plans (id, name, amount_monthly) VALUES ('p', 'n', 'dear')",
				"INSERT INTO core_pricing_plans (id, name, sort_order) VALUES ('p', 'n', '1x')",
				"INSERT INTO sys_jobs (job_type, attempts) VALUES ('x', 'two')",
			} {
				if _, err := pool.Exec(statement); err == nil {
					t.Errorf("%s succeeded", statement)
				}
			}
			for _, column := range []string{"core_users.created_at", "core_users.last_login",
				"core_tenants.created_at", "sys_jobs.run_after"} {
				table, column, _ := strings.Cut(column, ".")
				newUser(t, db)
				enqueue(t, db, hostdb.SystemJob{JobType: "x"})
				for _, bad := range []string{"", "soon", "infinity", "2026-02-30T00:00:00.000000Z",
					"2026-01-01T25:00:00.000000Z", "2026-13-01T00:00:00.000000Z",
					"0000-01-01T00:00:00.000000Z", "12026-01-01T00:00:00.000000Z",
					"2026-01-01T00:60:00.000000Z", "2026-01-01T00:00:00.000000Z\x00"} {
					if _, err := pool.Exec("UPDATE "+table+" SET "+column+" = $1", bad); err == nil {
						t.Errorf("%s.%s took the time %q", table, column, bad)
					}
				}
				for _, good := range []string{"0001-01-01T00:00:00.000001Z", "2026-12-31T23:59:59.999999Z",
					"2024-02-29T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"} {
					_, err := pool.Exec("UPDATE " + table + " SET " + column + " = '" + good + "'")
					must(t, err)
				}
			}
		})
	}
}

// SQLite's GLOB and length ignore what follows a NUL.
func TestSchema_refusesNULOfOtherPrograms(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			pool, tn := raw(t, db), newTenant(t, db)
			newMember(t, db, newUser(t, db), tn, hostdb.RoleMember)
			must(t, db.Subscriptions.Insert(t.Context(), &hostdb.Subscription{TenantID: tn.ID}))
			must(t, db.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "p", Name: "P"}))
			enqueue(t, db, hostdb.SystemJob{JobType: "x"})
			for column, good := range map[string]string{"core_users.email": "a@b", "core_users.oauth_id": "o",
				"core_tenants.name": "n", "core_tenants.slug": "s", "core_memberships.role": "admin",
				"core_memberships.id": hexID(1), "core_subscriptions.status": "active",
				"core_subscriptions.id": hexID(1), "core_pricing_plans.currency": "eur",
				"core_pricing_plans.id": "q", "sys_jobs.job_type": "y", "sys_jobs.tenant_id": hexID(1)} {
				table, column, _ := strings.Cut(column, ".")
				update := "UPDATE " + table + " SET " + column + " = $1"
				_, err := pool.Exec(update, good)
				must(t, err)
				if _, err := pool.Exec(update, good+"\x00x"); err == nil {
					t.Errorf("%s.%s took a NUL", table, column)
				}
			}
		})
	}
}

func insertSlug(pool *sql.DB, slug string) error {
	_, err := pool.Exec("INSERT INTO core_tenants (name, slug) VALUES ('n', $1)", slug)
	return err
}

func TestNewID_isNewValidAndOrdered(t *testing.T) {
	last := ""
	for range 10_000 {
		id := hostdb.NewID()
		if !hostdb.ValidID(id) || id <= last {
			t.Fatalf("%q after %q", id, last)
		}
		last = id
	}
	if stamp := hostdb.Timestamp(); len(stamp) != 27 || !strings.HasSuffix(stamp, "Z") {
		t.Errorf("Timestamp() = %q", stamp)
	}
}
