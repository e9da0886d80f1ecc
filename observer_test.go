package tenantdb_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// told collects what observers are told, with the name of the function before each.
type told struct {
	mu    sync.Mutex
	calls []call
}

// call is one call of an observer's function.
type call struct {
	name string
	ctx  context.Context
	info any
}

// insideKey marks the contexts that Start functions return with their names.
type insideKey struct{}

// observers returns observers that collect what they are told. each is called in every function.
func (c *told) observers(each func()) (*tenantdb.Observer, *tenantdb.PoolObserver) {
	o, p := new(tenantdb.Observer), new(tenantdb.PoolObserver)
	for _, target := range []reflect.Value{reflect.ValueOf(o).Elem(), reflect.ValueOf(p).Elem()} {
		for i := range target.NumField() {
			name, field := target.Type().Field(i).Name, target.Field(i)
			field.Set(reflect.MakeFunc(field.Type(), func(args []reflect.Value) []reflect.Value {
				ctx := args[0].Interface().(context.Context)
				c.mu.Lock()
				c.calls = append(c.calls, call{name, ctx, args[1].Interface()})
				c.mu.Unlock()
				each()
				if field.Type().NumOut() == 0 {
					return nil
				}
				inside, _ := ctx.Value(insideKey{}).(string)
				ctx = context.WithValue(ctx, insideKey{}, inside+"/"+name)
				out := reflect.New(field.Type().Out(0)).Elem()
				out.Set(reflect.ValueOf(ctx))
				return []reflect.Value{out}
			}))
		}
	}
	return o, p
}

// take returns and forgets the calls of a function.
func (c *told) take(name string) (taken []call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = slices.DeleteFunc(c.calls, func(one call) bool {
		if one.name != name {
			return false
		}
		taken = append(taken, one)
		return true
	})
	return taken
}

// one returns the only call of a function since the last time, which may be under way yet.
func one[I any](t *testing.T, c *told, name string) (I, call) {
	t.Helper()
	var calls []call
	eventually(t, func() bool { calls = append(calls, c.take(name)...); return len(calls) > 0 })
	if len(calls) != 1 {
		t.Fatalf("%s: %d calls, want one: %v", name, len(calls), calls)
	}
	return calls[0].info.(I), calls[0]
}

// observed is a product on one engine whose observers collect what they are told.
func observed(t *testing.T, engine string, cfg tenantdb.PoolConfig, each func()) (
	*world, *tenantdb.Middleware, *told) {
	t.Helper()
	c := new(told)
	var o *tenantdb.Observer
	o, cfg.Observer = c.observers(each)
	w := newWorld(t, engine, cfg)
	config := w.config()
	config.Observer = o
	return w, w.middleware(config), c
}

func TestObserver_isToldWhatTheMiddlewareDecides(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w, mw, c := observed(t, engine, tenantdb.PoolConfig{}, func() {})
			ann, eve := w.user("ann"), w.user("eve")
			acme := w.tenant("acme", ann)
			feedStarted(t, mw)
			handler := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.Context().Value(insideKey{}) != nil {
					t.Error("the handler has the decision's context")
				}
			}))
			serve := func(subject, tenant string) tenantdb.DecisionEndInfo {
				t.Helper()
				c.take("DecisionEnd")
				do(handler, request(subject, tenant))
				got, _ := one[tenantdb.DecisionEndInfo](t, c, "DecisionEnd")
				if got.Duration <= 0 {
					t.Errorf("it took %v", got.Duration)
				}
				got.Duration = 0
				return got
			}
			c.take("LookupEnd")
			want := tenantdb.DecisionEndInfo{Operation: tenantdb.OperationRequest, Loaded: true,
				TenantID: acme.ID, UserID: ann.ID}
			if got := serve("ann", "acme"); got != want {
				t.Errorf("let in: %+v, want %+v", got, want)
			}
			lookups := c.take("LookupEnd") // two if the facts changed while they were loaded
			if len(lookups) == 0 {
				t.Fatal("no lookup")
			}
			if got := lookups[0].info.(tenantdb.LookupEndInfo); got.Err != nil || got.Duration <= 0 ||
				lookups[0].ctx.Value(insideKey{}) != "/DecisionStart/LookupStart" {
				t.Errorf("lookup: %+v inside %v", got, lookups[0].ctx.Value(insideKey{}))
			}
			want.Loaded = false
			if got := serve("ann", "acme"); got != want || len(c.take("LookupEnd")) > 0 {
				t.Errorf("cached: %+v, want %+v without a lookup", got, want)
			}
			want = tenantdb.DecisionEndInfo{Operation: tenantdb.OperationRequest, Loaded: true,
				Code: "not_member", Reason: tenantdb.ReasonNoMembership, Status: 403, TenantID: acme.ID,
				UserID: eve.ID}
			if got := serve("eve", "acme"); got != want {
				t.Errorf("a stranger: %+v, want %+v", got, want)
			}
			if got := serve("", "acme"); got.Code != "unauthenticated" || got.Status != 401 || got.Loaded {
				t.Errorf("nobody: %+v", got)
			}
			_, leave, err := mw.Enter(t.Context(), "acme")
			must(t, err)
			leave()
			if got, _ := one[tenantdb.DecisionEndInfo](t, c, "DecisionEnd"); got.Operation !=
				tenantdb.OperationEnter || got.TenantID != acme.ID || got.Code != "" || !got.Loaded {
				t.Errorf("Enter: %+v", got)
			}
			if refused := c.take("Refused"); len(refused) > 0 {
				t.Errorf("decisions are told twice: %v", refused)
			}
			do(mw.Handler(mw.RequireFeature("gold")(emptyHandler)), request("ann", "acme"))
			wantRefused := tenantdb.RefusalInfo{Code: "forbidden", Reason: tenantdb.ReasonFeature,
				Status: 403, TenantID: acme.ID, UserID: ann.ID}
			if got, _ := one[tenantdb.RefusalInfo](t, c, "Refused"); got != wantRefused {
				t.Errorf("a guard: %+v, want %+v", got, wantRefused)
			}
			eventually(t, func() bool {
				polls := c.take("Polled")
				return slices.ContainsFunc(polls, func(one call) bool {
					p := one.info.(tenantdb.PollInfo)
					return p.Lag > 0 && p.Lag < time.Minute && p.Err == nil
				})
			})
		})
	}
}

func TestPoolObserver_isToldWhatHappensToConnections(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w, mw, c := observed(t, engine, tenantdb.PoolConfig{MaxConns: 1, MaxOpenSQLite: 1}, func() {})
			ann := w.user("ann")
			acme, globex := w.tenant("acme", ann), w.tenant("globex", ann)
			for _, tenant := range []*hostdb.TenantCatalog{acme, globex} {
				must(t, w.pool.Drain(t.Context(), tenant.ID))
			}
			server := ""
			if stats := w.pool.Stats(); engine == "postgres" {
				server = stats.Servers[0].Server
			}
			for _, name := range []string{"Closed", "Retired", "Evicted", "OpenStart", "OpenEnd", "WaitEnd"} {
				eventually(t, func() bool { // what making the tenants did
					conns := w.pool.Stats()
					return conns.SQLite.Open == 0 &&
						(len(conns.Servers) == 0 || conns.Servers[0].Closing == 0)
				})
				c.take(name)
			}
			h := mw.Handler(http.HandlerFunc(whoami))
			mustServe(t, h, request("ann", "acme"))
			opened, at := one[tenantdb.OpenEndInfo](t, c, "OpenEnd")
			if opened.Duration <= 0 || opened.TenantID != acme.ID || opened.Server != server ||
				opened.Err != nil {
				t.Errorf("open: %+v", opened)
			}
			if engine == "postgres" {
				if inside := at.ctx.Value(insideKey{}); inside != "/WaitStart/OpenStart" ||
					at.ctx.Done() != nil {
					t.Errorf("opened inside %v", inside)
				}
				wait, _ := one[tenantdb.WaitEndInfo](t, c, "WaitEnd")
				if wait.Duration <= 0 || wait.TenantID != acme.ID || wait.Server != server ||
					wait.Code != "" {
					t.Errorf("wait: %+v", wait)
				}
			}
			mustServe(t, h, request("ann", "acme"))
			if calls := append(c.take("OpenStart"), c.take("WaitEnd")...); len(calls) != 1 {
				t.Errorf("an idle connection: %v", calls)
			}
			mustServe(t, h, request("ann", "globex")) // takes acme's place
			if got, _ := one[tenantdb.EvictionInfo](t, c, "Evicted"); got.TenantID != acme.ID ||
				got.Server != server {
				t.Errorf("evicted: %+v", got)
			}
			if got, _ := one[tenantdb.CloseInfo](t, c, "Closed"); got.TenantID != acme.ID ||
				got.Server != server || got.Err != nil {
				t.Errorf("closed: %+v", got)
			}
			c.take("Retired")
			must(t, w.pool.Drain(t.Context(), globex.ID))
			if got, _ := one[tenantdb.RetirementInfo](t, c, "Retired"); got.TenantID != globex.ID {
				t.Errorf("retired: %+v", got)
			}
			// One that holds the only connection keeps another waiting.
			ctx, leave, err := mw.Enter(t.Context(), "acme")
			must(t, err)
			defer leave()
			tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
			must(t, err)
			c.take("WaitEnd")
			lease, err := w.pool.Lease(acme)
			must(t, err)
			defer lease.Release()
			soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err = lease.DB().BeginTx(soon, nil); err == nil {
				t.Error("two have the only connection")
			}
			gone, cancelGone := context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancelGone)
			_, _ = lease.DB().BeginTx(gone, nil)
			waits := c.take("WaitEnd")
			if len(waits) != 2 || waits[0].info.(tenantdb.WaitEndInfo).Code == "" ||
				waits[0].info.(tenantdb.WaitEndInfo).Err == nil ||
				waits[1].info.(tenantdb.WaitEndInfo).Code != "canceled" {
				t.Errorf("waits in vain: %+v", waits)
			}
			must(t, tx.Rollback())
		})
	}
}

func TestPoolObserver_isToldOfTheBreaker(t *testing.T) {
	c := new(told)
	_, o := c.observers(func() {})
	p := faultPool(t, tenantdb.PoolConfig{Observer: o, ServerRetry: 100 * time.Millisecond})
	for range 8 { // more than the breaker's threshold
		url := hostdb.Secret("postgres://u:" + planted + "@127.0.0.1:1/gone?sslmode=disable")
		if query(t.Context(), p, &hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: url}) == nil {
			t.Fatal("nobody serves there")
		}
	}
	var changes []call
	eventually(t, func() bool {
		_ = query(t.Context(), p, &hostdb.TenantCatalog{ID: hostdb.NewID(),
			DBURL: "postgres://u@127.0.0.1:1/gone?sslmode=disable"})
		changes = append(changes, c.take("BreakerChanged")...)
		return len(changes) >= 2
	})
	first, second := changes[0].info.(tenantdb.BreakerInfo), changes[1].info.(tenantdb.BreakerInfo)
	if first.From != "closed" || first.To != "open" || first.Server != "127.0.0.1:1" || first.Err == nil ||
		second.From != "open" || second.To != "half-open" {
		t.Errorf("changes %+v, %+v", first, second)
	}
	if failed := c.take("OpenEnd"); len(failed) < 5 || failed[0].info.(tenantdb.OpenEndInfo).Err == nil {
		t.Errorf("opened %v", failed)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.calls {
		if form, found := leak(text([]any{one.info}, verbs...), planted); found {
			t.Errorf("%s shows the password, as %q", one.name, form)
		}
	}
}

// exercise has everything happen that observers are told of, but for a breaker's change.
func exercise(t *testing.T, w *world, mw *tenantdb.Middleware) {
	t.Helper()
	acme, globex := w.tenant("acme", w.user("ann")), w.tenant("globex", w.user("bob"))
	h := mw.Handler(http.HandlerFunc(whoami))
	for range 2 {
		mustServe(t, h, request("ann", "acme"))
		mustServe(t, h, request("bob", "globex"))
	}
	if rec := do(h, request("bob", "acme")); rec.Code != http.StatusForbidden {
		t.Errorf("a stranger: %d", rec.Code)
	}
	guarded := mw.Handler(mw.RequireFeature("gold")(emptyHandler))
	if rec := do(guarded, request("ann", "acme")); rec.Code != http.StatusForbidden {
		t.Errorf("a guard: %d", rec.Code)
	}
	ctx, leave, err := mw.Enter(t.Context(), "acme")
	must(t, err)
	rows, err := tenantdb.DB(ctx).QueryContext(ctx, "SELECT name FROM me")
	must(t, err)
	leave() // takes the connection back
	_ = rows.Close()
	w.update(globex, func(row *hostdb.TenantCatalog) { row.Status = hostdb.TenantSuspended })
	eventually(t, func() bool { return do(h, request("bob", "globex")).Code == http.StatusForbidden })
	must(t, w.pool.Drain(t.Context(), acme.ID))
	mustServe(t, h, request("ann", "acme"))
}

func TestObserver_panicsBreakNothing(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
			defer slog.SetDefault(before)
			cfg := tenantdb.PoolConfig{MaxConns: 1, MaxOpenSQLite: 1}
			w, mw, c := observed(t, engine, cfg, func() { panic("the observer's") })
			exercise(t, w, mw)
			for _, name := range []string{"DecisionStart", "DecisionEnd", "LookupStart", "LookupEnd",
				"Refused", "Polled", "WaitStart", "WaitEnd", "OpenStart", "OpenEnd", "Closed", "Evicted",
				"Retired"} {
				if name[:4] == "Wait" && engine == "sqlite" {
					continue // nobody had to
				}
				eventually(t, func() bool { return len(c.take(name)) > 0 })
			}
			must(t, w.pool.Close(t.Context()))
			if n := strings.Count(log.String(), "an observer panicked"); n != 1 {
				t.Errorf("the pool's panics are logged %d times", n)
			}
			if s := w.pool.Stats(); s.Tenants != 0 || s.SQLite.Open != 0 {
				t.Errorf("the pool holds something yet: %+v", s)
			}
		})
	}
}

// TestObserver_isCalledWithoutALock has each function use what has locks. With one held, nothing would end.
func TestObserver_isCalledWithoutALock(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			var use func()
			var once sync.Mutex // guards use
			cfg := tenantdb.PoolConfig{MaxConns: 1, MaxOpenSQLite: 1}
			w, mw, _ := observed(t, engine, cfg, func() {
				once.Lock()
				f := use
				once.Unlock()
				if f != nil {
					f()
				}
			})
			once.Lock()
			use = func() {
				_, _ = mw.Stats(), w.pool.TenantStats()
				mw.Invalidate(hostdb.NewID(), hostdb.NewID())
				w.pool.Retire(hostdb.NewID())
				if lease, err := w.pool.Lease(&hostdb.TenantCatalog{ID: hostdb.NewID(),
					DBURL: "sqlite:/nowhere/x.db"}); err == nil {
					_, _ = w.pool, lease.DB()
					lease.Release()
				}
			}
			once.Unlock()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				exercise(t, w, mw)
			}()
			select {
			case <-ended:
			case <-time.After(time.Minute):
				panic("an observer's function waits for a lock that its caller holds")
			}
		})
	}
}

func TestObserver_thatBlocksDelaysItsCallerOnly(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{})
			free, blocked := make(chan struct{}), make(chan struct{}, 100)
			block := func() {
				select {
				case blocked <- struct{}{}:
				default:
				}
				<-free
			}
			ann := w.user("ann")
			acme, globex := w.tenant("acme", ann), w.tenant("globex", ann)
			cfg := w.config()
			cfg.Observer = &tenantdb.Observer{
				Polled: func(context.Context, tenantdb.PollInfo) { block() },
				DecisionEnd: func(_ context.Context, i tenantdb.DecisionEndInfo) {
					if i.TenantID == globex.ID {
						block()
					}
				},
			}
			mw := w.middleware(cfg)
			defer close(free)
			h := mw.Handler(emptyHandler)
			<-blocked // the feed's report
			late := make(chan int, 1)
			go func() { late <- do(h, request("ann", "globex")).Code }()
			<-blocked
			mustServe(t, h, request("ann", "acme"))
			w.update(acme, func(row *hostdb.TenantCatalog) { row.Status = hostdb.TenantSuspended })
			eventually(t, func() bool { return do(h, request("ann", "acme")).Code == http.StatusForbidden })
			eventually(t, func() bool { return mw.Stats().SincePoll < 2*time.Second })
			select {
			case code := <-late:
				t.Errorf("the blocked request was answered %d", code)
			default:
			}
		})
	}
}

func TestJoinObservers_tellsEachInTheContextOfTheOneBefore(t *testing.T) {
	var got []string
	named := func(name string) (*tenantdb.Observer, *tenantdb.PoolObserver) {
		c := new(told)
		o, p := c.observers(func() {
			last := c.calls[len(c.calls)-1]
			got = append(got, fmt.Sprint(name, " ", last.name, " ", last.ctx.Value(insideKey{})))
		})
		return o, p
	}
	a, pa := named("a")
	b, pb := named("b")
	join, pool := tenantdb.JoinObservers(a, nil, b), tenantdb.JoinPoolObservers(pa, nil, pb)
	ctx := join.LookupStart(t.Context(), tenantdb.LookupStartInfo{})
	join.LookupEnd(ctx, tenantdb.LookupEndInfo{})
	want := []string{"a LookupStart <nil>", "b LookupStart /LookupStart",
		"a LookupEnd /LookupStart/LookupStart", "b LookupEnd /LookupStart/LookupStart"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, v := range []any{*join, *pool} { // each function is joined with its namesake
		for i := range reflect.TypeOf(v).NumField() {
			got = nil
			f, name := reflect.ValueOf(v).Field(i), reflect.TypeOf(v).Field(i).Name
			f.Call([]reflect.Value{reflect.ValueOf(t.Context()), reflect.Zero(f.Type().In(1))})
			if len(got) != 2 || !strings.HasPrefix(got[0], "a "+name+" ") ||
				!strings.HasPrefix(got[1], "b "+name) {
				t.Errorf("%s calls %q", name, got)
			}
		}
	}
	none := tenantdb.JoinObservers(nil, new(tenantdb.Observer))
	if none.DecisionStart != nil || none.DecisionEnd != nil {
		t.Error("functions of nobody are called")
	}
}
