package tenantdbtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// Isolation says how [AssertIsolated] prepares its tenants. The zero value is for handlers that admit owners
// of tenants on the plan "free", and whose tables take rows of texts and numbers.
type Isolation struct {
	// Plant adds rows with a marker to the tenant's database that ctx leads to, where the requests will show
	// it. The default adds a row to each table that has a column for text. It puts the marker into these
	// columns and 1 into others that need a value. Give a function where that isn't enough, as with foreign
	// keys and checks.
	Plant func(ctx context.Context, marker string) error
	// Prepare changes each of the two tenants before it is asked, such as by [Kit.Subscribe]. The default
	// changes nothing.
	Prepare func(tenant *hostdb.TenantCatalog)
}

// AssertIsolated fails a test if a handler mixes up tenants. handler is the program's own, wrapped with the
// middleware of k.
//
// It makes two tenants, and plants rows with a marker of its own in the database of each. It sends each
// request as the owners of both, and as a user who is a member of both: first one after the other, then many
// at once. Then it reads all tables of both databases. It fails the test if the response to one tenant, its
// body or a header, has the marker of the other tenant, or the other's slug, id or owner, or if a row has it.
// It also fails if a shared cache could show one tenant's page to the other: the page may be stored, and Vary
// leaves out the request header that tells the tenants apart (RFC 9111, section 4.1).
//
// The requests are as [httptest.NewRequest] makes them, without credential and tenant. In their path {tenant}
// stands for the tenant's slug, and in their body {marker} for its marker. At least one response has to show
// the tenant's own marker, and none may be a refusal or a failure of the server: such a test would prove
// nothing.
//
// It finds what happens while it looks. It can't find a leak that needs another request, more time or other
// rows.
func AssertIsolated(t testing.TB, k *Kit, handler http.Handler, how Isolation, requests ...*http.Request) {
	t.Helper()
	if len(requests) == 0 {
		t.Fatalf("tenantdbtest: AssertIsolated: give at least one request")
	}
	a := &isolation{t: t, k: k.For(t), handler: handler}
	for i := range a.sides {
		a.sides[i] = a.newSide(how)
	}
	both := a.k.User("member-of-both-" + strings.ToLower(rand.Text()[:10]))
	for i := range a.sides {
		a.k.Member(both, a.sides[i].tenant, hostdb.RoleOwner)
		a.sides[i].both = both
	}
	var asks []ask
	for _, r := range requests {
		one := ask{Request: r}
		if r.Body != nil {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatalf("tenantdbtest: AssertIsolated: the body of %s %s: %v", r.Method, r.URL.Path, err)
			}
			one.body = string(body)
		}
		asks = append(asks, one)
	}
	a.run(asks)
}

// isolation is one call of AssertIsolated.
type isolation struct {
	t       testing.TB
	k       *Kit
	handler http.Handler
	sides   [2]*side

	mu     sync.Mutex // guards what follows
	shown  bool       // a response had its own tenant's marker
	failed map[string]bool
}

// side is one of the two tenants.
type side struct {
	tenant      *hostdb.TenantCatalog
	owner, both *hostdb.GlobalUser
	marker      string
}

// ask is a request to send, without credential and tenant.
type ask struct {
	*http.Request
	body string
}

// newSide makes a tenant and plants its rows.
func (a *isolation) newSide(how Isolation) *side {
	a.t.Helper()
	s := &side{marker: "marker-" + strings.ToLower(rand.Text()),
		tenant: a.k.Tenant("isolated-" + strings.ToLower(rand.Text()[:10]))}
	s.owner = a.k.Owner(s.tenant)
	if how.Prepare != nil {
		how.Prepare(s.tenant)
		a.k.Changed(nil, s.tenant)
	}
	if how.Plant == nil {
		how.Plant = plant
	}
	ctx, end, err := a.k.enter(s.owner, s.tenant)
	if err == nil {
		err = how.Plant(ctx, s.marker)
		end()
	}
	if err != nil {
		a.t.Fatalf("tenantdbtest: AssertIsolated: plant the rows of a tenant; "+
			"see Isolation.Plant and Isolation.Prepare: %v", err)
	}
	return s
}

// atOnce is how often each request is sent to each tenant at the same time.
const atOnce = 8

// run sends the requests and looks at what comes of them.
func (a *isolation) run(asks []ask) {
	a.t.Helper()
	label := hostdb.NewID()
	pprof.Do(a.k.labels, pprof.Labels(workLabel, label), func(context.Context) {
		for _, one := range asks {
			a.inTurn(one)
		}
		var sending sync.WaitGroup
		for _, one := range asks {
			for i := range 2 * atOnce {
				sending.Go(func() { a.send(one, i%2, i%4 < 2) })
			}
		}
		sending.Wait()
	})
	awaitWork(label)
	for i := range a.sides {
		a.searchRows(i)
	}
	if !a.shown && len(a.failed) == 0 {
		a.t.Errorf("tenantdbtest: AssertIsolated proves nothing: no response shows the row planted for its " +
			"tenant; plant what the requests show (Isolation.Plant), or add a request that shows it")
	}
}

// inTurn sends a request to one tenant after the other.
func (a *isolation) inTurn(one ask) {
	a.t.Helper()
	var pages [2]page
	for _, asBoth := range []bool{false, true} {
		for _, i := range []int{0, 1, 0} {
			pages[i] = a.send(one, i, asBoth)
		}
	}
	// The last pages are of the same user, whose requests differ by the tenant alone.
	a.checkVary(one, pages)
}

// page is a request and its response.
type page struct {
	asked    *http.Request
	response *httptest.ResponseRecorder
}

// send sends a request to a tenant, and looks at the response.
func (a *isolation) send(one ask, i int, asBoth bool) page {
	a.t.Helper()
	own, other := a.sides[i], a.sides[1-i]
	user := own.owner
	foreign := []string{other.marker, other.tenant.ID, other.tenant.Slug, other.owner.ID, other.owner.Email}
	if asBoth { // this user may see the names of both
		user, foreign = own.both, foreign[:1]
	}
	r := one.Clone(a.t.Context())
	r.URL.Path = strings.ReplaceAll(r.URL.Path, "{tenant}", own.tenant.Slug)
	r.URL.RawPath = ""
	r.RequestURI = r.URL.RequestURI()
	r.Body = http.NoBody
	if one.body != "" {
		body := strings.ReplaceAll(one.body, "{marker}", own.marker)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	a.k.sign(r, user, own.tenant)
	asked := r.Clone(r.Context())
	response := a.k.Do(a.handler, r)
	what := one.Method + " " + one.URL.Path
	switch code := response.Code; {
	case code >= 500:
		a.fail("%s is answered with %d: %s", what, code, response.Body)
	case code == http.StatusUnauthorized, code == http.StatusPaymentRequired, code == http.StatusForbidden:
		a.fail("%s is refused with %d, which proves nothing (see Isolation.Prepare): %s", what, code,
			response.Body)
	}
	for _, text := range foreign {
		if bytes.Contains(response.Body.Bytes(), []byte(text)) {
			a.fail("%s: the body for one tenant has %q, which is the other's", what, text)
		}
		for name, values := range response.Header() {
			if strings.Contains(strings.Join(values, "\n"), text) {
				a.fail("%s: the header %s for one tenant has %q, which is the other's", what, name, text)
			}
		}
	}
	if bytes.Contains(response.Body.Bytes(), []byte(own.marker)) {
		a.mu.Lock()
		a.shown = true
		a.mu.Unlock()
	}
	return page{asked, response}
}

// fail reports a failure, once.
func (a *isolation) fail(format string, args ...any) {
	a.t.Helper()
	text := fmt.Sprintf(format, args...)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed[text] {
		return
	}
	if a.failed == nil {
		a.failed = map[string]bool{}
	}
	a.failed[text] = true
	a.t.Errorf("tenantdbtest: AssertIsolated: %s", text)
}

// checkVary fails if a shared cache may answer the request to the second tenant with the first one's page.
func (a *isolation) checkVary(one ask, pages [2]page) {
	a.t.Helper()
	first, second := pages[0], pages[1]
	if one.Method != http.MethodGet && one.Method != http.MethodHead ||
		bytes.Equal(first.response.Body.Bytes(), second.response.Body.Bytes()) ||
		first.asked.Host != second.asked.Host || first.asked.URL.String() != second.asked.URL.String() ||
		!storable(first.response) {
		return
	}
	for _, value := range first.response.Header().Values("Vary") {
		for name := range strings.SplitSeq(value, ",") {
			name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
			if name == "Authorization" && a.k.options.Claims == nil {
				continue // the same credential: two tokens of one user differ only in this test
			}
			if name == "*" || !slices.Equal(first.asked.Header[name], second.asked.Header[name]) {
				return
			}
		}
	}
	a.fail("%s %s: a shared cache may show one tenant's page to the other: Vary is %q, which leaves out the "+
		"header that names the tenant, and Cache-Control is neither private nor no-store; "+
		"a handler adds to Vary with Header().Add, and never sets it",
		one.Method, one.URL.Path, first.response.Header().Values("Vary"))
}

// storable reports whether a shared cache may store a response (RFC 9111, section 3). The rule that it may
// not store the response to a request with Authorization is left out, since proxies are often told to.
func storable(response *httptest.ResponseRecorder) bool {
	control := strings.ToLower(strings.Join(response.Header().Values("Cache-Control"), ","))
	return response.Code < 300 && !strings.Contains(control, "no-store") &&
		!strings.Contains(control, "private")
}

// searchRows fails if a tenant's database has the other tenant's marker.
func (a *isolation) searchRows(i int) {
	a.t.Helper()
	ctx, own, other := a.t.Context(), a.sides[i], a.sides[1-i]
	lease, err := a.k.Pool.Lease(own.tenant)
	if err != nil {
		a.t.Fatalf("tenantdbtest: AssertIsolated: read the rows: %v", err)
	}
	defer lease.Release()
	tables, err := tablesOf(ctx, lease.ReadDB(), lease.PG() != nil)
	for _, table := range tables {
		var found bool
		if found, err = rowsHave(ctx, lease.ReadDB(), table.name, other.marker); found {
			a.fail("a row of the table %s of one tenant has %q, which is the other's", table.name,
				other.marker)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		a.t.Errorf("tenantdbtest: AssertIsolated: read the rows: %v", err)
	}
}

// maxRows bounds how many rows of a table are read.
const maxRows = 100_000

// rowsHave reports whether a row of a table has a text.
func rowsHave(ctx context.Context, db *sql.DB, table, text string) (found bool, err error) {
	rows, err := db.QueryContext(ctx, fmt.Sprintf("SELECT * FROM %s LIMIT %d", table, maxRows))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return false, err
	}
	values := make([]any, len(columns))
	for i := range values {
		values[i] = new(any)
	}
	for rows.Next() {
		if err := rows.Scan(values...); err != nil {
			return false, err
		}
		for _, v := range values {
			switch v := (*v.(*any)).(type) {
			case []byte:
				found = found || bytes.Contains(v, []byte(text))
			default:
				found = found || strings.Contains(fmt.Sprint(v), text)
			}
		}
	}
	return found, rows.Err()
}

// table is a table of a tenant's database.
type table struct {
	name    string // quoted
	columns []column
}

// column is a column that a planted row may have to set.
type column struct {
	name         string // quoted
	text, needed bool
}

// tablesOf returns a database's tables, without that of the migrations.
func tablesOf(ctx context.Context, db *sql.DB, postgres bool) (all []table, err error) {
	query := `SELECT m.name, c.name, upper(c.type) LIKE '%CHAR%' OR upper(c.type) LIKE '%TEXT%',
		c."notnull" = 1 AND c.dflt_value IS NULL AND c.pk = 0
		FROM sqlite_schema m, pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> 'goose_db_version'
		ORDER BY m.name, c.cid`
	if postgres {
		query = `SELECT format('%I.%I', n.nspname, t.relname), a.attname,
			a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype),
			a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
			FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
			JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE t.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
			AND n.nspname NOT LIKE 'pg\_%' AND t.relname <> 'goose_db_version'
			ORDER BY n.nspname, t.relname, a.attnum`
	}
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var c column
		if err := rows.Scan(&name, &c.name, &c.text, &c.needed); err != nil {
			return nil, err
		}
		c.name = pgx.Identifier{c.name}.Sanitize()
		if !postgres {
			name = pgx.Identifier{name}.Sanitize()
		}
		if len(all) == 0 || all[len(all)-1].name != name {
			all = append(all, table{name: name})
		}
		last := &all[len(all)-1]
		last.columns = append(last.columns, c)
	}
	return all, rows.Err()
}

// plant is the default of Isolation.Plant.
func plant(ctx context.Context, marker string) error {
	db := tenantdb.DB(ctx)
	scope, _ := tenantdb.FromContext(ctx)
	tables, err := tablesOf(ctx, db, !strings.HasPrefix(scope.Tenant.DBURL.Reveal(), "sqlite:"))
	if err != nil {
		return err
	}
	planted := 0
	for _, t := range tables {
		var names, values []string
		hasText := false
		for _, c := range t.columns {
			switch {
			case c.text:
				names, values, hasText = append(names, c.name), append(values, "'"+marker+"'"), true
			case c.needed:
				names, values = append(names, c.name), append(values, "1")
			}
		}
		if !hasText {
			continue
		}
		_, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", t.name,
			strings.Join(names, ", "), strings.Join(values, ", ")))
		if err != nil {
			return fmt.Errorf("no row can be made up for the table %s; give Isolation.Plant: %w", t.name, err)
		}
		planted++
	}
	if planted == 0 {
		return errors.New("no table has a column for text; give Isolation.Plant")
	}
	return nil
}
