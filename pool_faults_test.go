package tenantdb_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// crowd requests the pages of tenants all the time, each with a deadline of one second, and counts the good
// answers.
type crowd struct {
	h       http.Handler
	good    sync.Map // slug → *atomic.Int64
	stop    chan struct{}
	members sync.WaitGroup
}

// newCrowd starts workers for each tenant.
func newCrowd(t *testing.T, w *world, slugs ...string) *crowd {
	t.Helper()
	page := func(rw http.ResponseWriter, r *http.Request) {
		var name string
		if err := tenantdb.DB(r.Context()).QueryRowContext(r.Context(),
			"SELECT name FROM me").Scan(&name); err != nil {
			rw.Header().Set("X-Cause", fmt.Sprintf("%T %v", err, err))
			tenantdb.WriteError(rw, r, err)
			return
		}
		_, _ = io.WriteString(rw, name)
	}
	c := &crowd{h: w.middleware(w.config()).Handler(http.HandlerFunc(page)), stop: make(chan struct{})}
	var once sync.Once
	halt := func() { once.Do(func() { close(c.stop) }); c.members.Wait() }
	t.Cleanup(halt)
	for _, slug := range slugs {
		good := new(atomic.Int64)
		c.good.Store(slug, good)
		for range 3 {
			c.members.Go(func() { c.ask(t, slug, good) })
		}
	}
	return c
}

// ask is one worker.
func (c *crowd) ask(t *testing.T, slug string, good *atomic.Int64) {
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		began := time.Now()
		rec := do(c.h, request("ann", slug).WithContext(ctx))
		cancel()
		// one second, the time to cancel and close, and a slow machine
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: answered after %v", slug, took)
		}
		switch {
		case rec.Code == 200 && rec.Body.String() == slug:
			good.Add(1)
		case rec.Code == 503:
			<-time.After(10 * time.Millisecond) // as a client would
		default:
			t.Errorf("%s: %d %s: %s", slug, rec.Code, rec.Body, rec.Header().Get("X-Cause"))
		}
	}
}

// goesOn waits until each tenant has been served 20 more times.
func (c *crowd) goesOn(t *testing.T, slugs ...string) {
	t.Helper()
	for _, slug := range slugs {
		good, _ := c.good.Load(slug)
		n := good.(*atomic.Int64)
		for want, deadline := n.Load()+20, time.Now().Add(time.Minute); n.Load() < want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s isn't served", slug)
			}
			<-time.After(5 * time.Millisecond)
		}
	}
}

// refused waits until a tenant is answered 503.
func (c *crowd) refused(t *testing.T, slug string) {
	t.Helper()
	eventually(t, func() bool {
		return do(c.h, request("ann", slug)).Code == 503
	})
}

func TestPool_servesAgainAfterAServersCrash(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme, _ := w.tenant("acme", ann), w.tenant("other", ann)
	s := pgtest.Start(t)
	w.moveTo(acme, s, "")
	c := newCrowd(t, w, "acme", "other")
	for range 2 {
		c.goesOn(t, "acme", "other")
		s.Kill()
		c.refused(t, "acme")
		c.goesOn(t, "other")
		must(t, s.Start())
	}
	c.goesOn(t, "acme", "other")
}

func TestPool_survivesACutNetwork(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme, _ := w.tenant("acme", ann), w.tenant("other", ann)
	base, err := url.Parse(pgtest.Shared(t).URL("postgres"))
	must(t, err)
	p := newProxy(t, base.Host)
	w.moveTo(acme, pgtest.Shared(t), p.listener.Addr().String())
	c := newCrowd(t, w, "acme", "other")
	for _, fault := range []struct {
		name string
		cut  func()
		away bool
	}{
		{"hang", p.hang, true},
		{"reset", p.reset, true},
		{"slow", func() { p.delay.Store(int64(20 * time.Millisecond)) }, false},
	} {
		c.goesOn(t, "acme", "other")
		fault.cut()
		if fault.away {
			eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return do(c.h, request("ann", "acme").WithContext(ctx)).Code == 503
			})
		}
		c.goesOn(t, "other")
		p.mend()
		c.goesOn(t, "acme")
	}
}

func TestPool_droppedDatabaseAffectsItsTenantAlone(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme, _ := w.tenant("acme", ann), w.tenant("other", ann)
	w.moveTo(acme, pgtest.Shared(t), "")
	row, err := w.host.Tenants.Get(t.Context(), acme.ID)
	must(t, err)
	u, err := url.Parse(row.DBURL.Reveal())
	must(t, err)
	name := u.Path[1:]
	c := newCrowd(t, w, "acme", "other")
	c.goesOn(t, "acme", "other")
	admin(t, "DROP DATABASE "+name+" WITH (FORCE)")
	c.refused(t, "acme")
	c.goesOn(t, "other")
	// The database is restored from a backup, and gets its name once it is complete.
	admin(t, "CREATE DATABASE "+name+"_restored")
	restored := *u
	restored.Path += "_restored"
	conn, err := pgx.Connect(t.Context(), restored.String())
	must(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE me AS SELECT 'acme' AS name")
	must(t, err)
	must(t, conn.Close(t.Context()))
	admin(t, "ALTER DATABASE "+name+"_restored RENAME TO "+name)
	c.goesOn(t, "acme", "other")
}

func TestPool_replacesConnectionsThatTheNetworkForgot(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	base, err := url.Parse(pgtest.Shared(t).URL("postgres"))
	must(t, err)
	p := newProxy(t, base.Host)
	w.moveTo(acme, pgtest.Shared(t), p.listener.Addr().String())
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID) // a context without a deadline
	must(t, err)
	defer leave()
	pids(t, ctx, 5)
	p.forget()
	quiet := time.Now()
	// younger connections aren't checked
	eventually(t, func() bool { return time.Since(quiet) > 1100*time.Millisecond })
	asked := time.Now()
	if got := ask[string](t, ctx, "SELECT name FROM me"); got != "acme" {
		t.Errorf("read %q", got)
	}
	// two for the first connection, little for the others, and a slow machine
	if took := time.Since(asked); took > 10*time.Second {
		t.Errorf("after %v", took)
	}
}

// TestPool_leavesAServerThatBecameAStandby: the connection was opened through a name that now leads to the
// new primary.
func TestPool_leavesAServerThatBecameAStandby(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	old := pgtest.Start(t)
	w.moveTo(acme, old, "")
	conn, err := pgx.Connect(t.Context(), old.URL("postgres"))
	must(t, err)
	var dir string
	must(t, conn.QueryRow(t.Context(), "SHOW data_directory").Scan(&dir))
	must(t, conn.Close(t.Context()))
	old.Stop()
	must(t, os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644))
	must(t, old.Start())
	process := 0
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		must(t, tenantdb.DB(r.Context()).QueryRowContext(r.Context(),
			"SELECT pg_backend_pid()").Scan(&process))
		var err error
		if r.URL.Query().Has("tx") {
			err = insideTx(r.Context(), "INSERT INTO me VALUES ('x')")
		} else {
			_, err = tenantdb.PG(r.Context()).Exec(r.Context(), "INSERT INTO me VALUES ('x')")
		}
		tenantdb.WriteError(rw, r, err)
	}))
	seen := make(map[int]bool)
	for i := range 4 {
		r := request("ann", "acme")
		if i%2 == 1 {
			r.URL.RawQuery = "tx"
		}
		if rec := do(h, r); rec.Code != 503 || code(t, rec) != "tenant_unavailable" || seen[process] {
			t.Errorf("%d %s; connection met before: %v", rec.Code, rec.Body, seen[process])
		}
		seen[process] = true
	}
}
