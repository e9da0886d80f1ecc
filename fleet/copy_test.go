package fleet_test

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// rich is a schema with every kind of object that a role without further rights can create, and with
// properties of the database. WITNESS is a role to grant rights to.
const rich = `-- +goose Up
CREATE EXTENSION citext;
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TABLE app.person (id bigserial PRIMARY KEY, email citext UNIQUE, mood app.mood, age app.positive);
CREATE TABLE app.event (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE app.event_2026 PARTITION OF app.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE VIEW app.adult AS SELECT * FROM app.person WHERE age >= 18;
CREATE MATERIALIZED VIEW app.moods AS SELECT mood, count(*) FROM app.person GROUP BY mood;
CREATE SEQUENCE app.number;
CREATE STATISTICS app.related ON mood, age FROM app.person;
CREATE FUNCTION app.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE app.nothing() LANGUAGE sql AS '';
CREATE AGGREGATE app.total(int) (sfunc = int4pl, stype = int, initcond = '0');
-- +goose StatementBegin
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
-- +goose StatementEnd
CREATE TRIGGER touched BEFORE UPDATE ON app.person FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE COLLATION app.plain FROM "C";
CREATE TEXT SEARCH CONFIGURATION app.words (COPY = simple);
CREATE PUBLICATION persons FOR TABLE app.person;
SELECT lo_create(4711);
INSERT INTO app.person (email, mood, age) VALUES ('ann@example.com', 'good', 30);
GRANT USAGE ON SCHEMA app TO WITNESS;
GRANT SELECT ON app.adult TO WITNESS WITH GRANT OPTION;
GRANT UPDATE (mood) ON app.person TO WITNESS;
REVOKE EXECUTE ON FUNCTION app.one() FROM PUBLIC;
COMMENT ON TABLE app.person IS 'people';
-- +goose StatementBegin
DO $$ DECLARE d text := quote_ident(current_database()); BEGIN
	EXECUTE 'ALTER DATABASE ' || d || ' SET search_path TO "$user", app, "Odd ""name", public';
	EXECUTE 'ALTER DATABASE ' || d || ' SET work_mem TO ''7MB''';
	EXECUTE 'ALTER DATABASE ' || d || ' SET datestyle TO ''German, DMY''';
	EXECUTE 'ALTER DATABASE ' || d || ' SET application_name TO ''it''''s = a \ "b"''';
	EXECUTE 'ALTER DATABASE ' || d || ' SET default_transaction_read_only TO on';
	EXECUTE 'ALTER ROLE CURRENT_USER IN DATABASE ' || d || ' SET statement_timeout TO ''33s''';
	EXECUTE 'COMMENT ON DATABASE ' || d || ' IS ''a tenant''''s \''';
	EXECUTE 'ALTER DATABASE ' || d || ' CONNECTION LIMIT 17';
	EXECUTE 'REVOKE TEMPORARY ON DATABASE ' || d || ' FROM PUBLIC';
	EXECUTE 'GRANT CONNECT ON DATABASE ' || d || ' TO WITNESS, PUBLIC';
	EXECUTE 'GRANT CREATE ON DATABASE ' || d || ' TO WITNESS WITH GRANT OPTION';
END $$;
-- +goose StatementEnd
`

// awkward are migrations that refer to their role in ways that REASSIGN OWNED doesn't change.
var awkward = map[string]string{
	"default privileges": "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO WITNESS;\n",
	"a policy": "ALTER TABLE app.person ENABLE ROW LEVEL SECURITY;\n" +
		"CREATE POLICY mine ON app.person TO CURRENT_USER USING (true);\n",
	"no more": "",
}

// witness creates a role that migrations grant rights to.
func (w *world) witness(t *testing.T) string {
	t.Helper()
	name, conn := "witness_"+hostdb.NewID(), w.connect(t)
	_, err := conn.Exec(t.Context(), "CREATE ROLE "+name)
	must(t, err)
	t.Cleanup(func() {
		w.dropTemplates(t)
		_, err := conn.Exec(context.Background(), "DROP ROLE "+name)
		must(t, err)
	})
	return name
}

func TestTemplate_copyEqualsMigratedDatabase(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for kind, more := range awkward {
			t.Run(fmt.Sprintf("shared role %v, %s", shared, kind), func(t *testing.T) {
				w := newWorld(t, "postgres")
				server, _ := w.ordinary(t, "CREATEDB CREATEROLE")
				files := fstest.MapFS{"00001_rich.sql": {Data: []byte(strings.ReplaceAll(rich+more,
					"WITNESS", w.witness(t)))}}
				descriptions := make(map[bool]map[string]string)
				for _, without := range []bool{false, true} {
					f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: files,
						Server: server, SharedRole: shared, NoTemplate: without})
					must(t, err)
					tenant, err := f.Provision(t.Context(), fleet.Spec{Slug: fmt.Sprintf("without-%v",
						without), OwnerID: w.owner.ID})
					must(t, err)
					descriptions[without] = w.describe(t, tenant)
					must(t, f.Drop(t.Context(), tenant.ID))
				}
				if n := len(w.templates(t)); n != 1 {
					t.Errorf("%d templates; want that of the first", n)
				}
				for _, what := range slices.Sorted(maps.Keys(descriptions[true])) {
					if got, want := descriptions[false][what],
						descriptions[true][what]; got != want || want == "" {

						t.Errorf("%s: only the copy has\n%s\nit lacks\n%s", what,
							lacking(want, got), lacking(got, want))
					}
				}
				if n := w.databases(t) + w.roles(t); n != 0 {
					t.Errorf("%d databases and roles are left", n)
				}
			})
		}
	}
}

// lacking returns the lines of the second text that the first doesn't have.
func lacking(text, other string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(other, "\n"), func(line string) bool {
		return slices.Contains(lines, line)
	}), "\n")
}

// describe describes a tenant's database, with TENANT in place of its name.
func (w *world) describe(t *testing.T, tenant *hostdb.TenantCatalog) map[string]string {
	t.Helper()
	u, err := url.Parse(w.url)
	must(t, err)
	u.Path = "/tenant_" + tenant.ID
	conn, err := pgx.Connect(t.Context(), u.String())
	must(t, err)
	defer conn.Close(context.Background())
	about := make(map[string]string)
	for what, query := range map[string]string{
		"settings": "SELECT coalesce(rolname, '') || ': ' || setconfig::text FROM pg_db_role_setting LEFT " +
			"JOIN pg_roles r ON r.oid = setrole WHERE setdatabase = (SELECT oid FROM pg_database WHERE " +
			"datname = current_database())",
		"grants": "SELECT coalesce(r.rolname, 'PUBLIC') || ' ' || a.privilege_type || ' ' || " +
			"a.is_grantable FROM pg_database, aclexplode(datacl) a LEFT JOIN pg_roles r ON r.oid = grantee " +
			"WHERE datname = current_database()",
		"database": "SELECT concat_ws(', ', r.rolname, datconnlimit, datallowconn, datistemplate, " +
			"shobj_description(d.oid, 'pg_database')) FROM pg_database d JOIN pg_roles r ON r.oid = datdba " +
			"WHERE datname = current_database()",
		"extensions": "SELECT extname || extversion || ' ' || rolname FROM pg_extension JOIN pg_roles ON " +
			"pg_roles.oid = extowner",
		"owners and grantees": "SELECT concat_ws(' ', o.type, o.identity, deptype, rolname) FROM " +
			"pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid, pg_identify_object(classid, objid, " +
			"objsubid) o WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
		"schemas": "SELECT nspname || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE NOT " +
			"starts_with(nspname, 'pg_temp') AND NOT starts_with(nspname, 'pg_toast')",
		"memberships": "SELECT count(*)::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member " +
			"WHERE rolname = current_database()",
	} {
		rows, err := conn.Query(t.Context(), query)
		must(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		slices.Sort(lines)
		about[what] = strings.ReplaceAll(strings.Join(lines, "\n"), "tenant_"+tenant.ID, "TENANT")
	}
	if dump, known := pgtest.Dump(t, u.String(), "--create", "--exclude-table-data=goose_db_version"); known {
		about["dump"] = strings.ReplaceAll(dump, "tenant_"+tenant.ID, "TENANT")
	} else {
		t.Log("this server is newer than pg_dump here: its catalogs alone are compared")
	}
	return about
}

func TestTemplate_isRemadeWhenItCantBeCopied(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for kind, spoil := range map[string]string{
			"the collations changed": "UPDATE pg_database SET datcollversion = 'x' WHERE " +
				"starts_with(datname, $1) OR datname = 'template1'",
			"its drop was interrupted": "UPDATE pg_database SET datconnlimit = -2, datistemplate = false " +
				"WHERE starts_with(datname, $1)",
		} {
			t.Run(fmt.Sprintf("shared role %v, %s", shared, kind), func(t *testing.T) {
				w := ownWorld(t)
				if w.version(t) < 15 && strings.Contains(spoil, "datcollversion") {
					t.Log("before PostgreSQL 15 a database has no version of its collation")
					return
				}
				var fleets [2]*fleet.Fleet
				for i := range fleets { // like two processes
					var err error
					fleets[i], err = fleet.New(fleet.Config{Host: w.host, Pool: w.pool,
						Migrations: schema, SharedRole: shared})
					must(t, err)
					w.provision(t, fleets[i], fmt.Sprintf("before-%d", i))
				}
				before := w.templateOIDs(t)
				_, err := w.connect(t).Exec(t.Context(), spoil, w.templatePrefix(t))
				must(t, err)
				var running sync.WaitGroup
				for i := range 6 {
					running.Go(func() {
						tenant, err := fleets[i%2].Provision(t.Context(),
							fleet.Spec{Slug: fmt.Sprintf("after-%d", i), OwnerID: w.owner.ID})
						if err != nil || tenant.SchemaVersion != 2 {
							t.Errorf("Provision = %v, %v", tenant, err)
						}
					})
				}
				running.Wait()
				after := w.templateOIDs(t)
				if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
					t.Errorf("templates: %v, then %v; want one, made anew", before, after)
				}
				roles := w.named(t, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)")
				if want := map[bool]int{true: 0, false: 2}[shared]; len(roles) != want {
					t.Errorf("the templates' roles: %v; want %d", roles, want)
				}
			})
		}
	}
}

// ownWorld makes a world on its own server, which the test may damage.
func ownWorld(t *testing.T) *world {
	t.Helper()
	w := &world{url: pgtest.Start(t).Database(t)}
	var err error
	w.host, err = hostdb.Open(t.Context(), w.url)
	must(t, err)
	t.Cleanup(func() { _ = w.host.Close() })
	w.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { _ = w.pool.Close(context.Background()) })
	w.owner = &hostdb.GlobalUser{OAuthID: "ann", Email: "ann@example.com"}
	must(t, w.host.Users.Insert(t.Context(), w.owner))
	return w
}

// templateOIDs returns the oids of the templates.
func (w *world) templateOIDs(t *testing.T) []string {
	t.Helper()
	return w.named(t, "SELECT oid::text FROM pg_database WHERE starts_with(datname, $1)")
}
