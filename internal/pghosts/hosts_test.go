package pghosts_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// config parses a URL that names the hosts of several URLs.
func config(t *testing.T, parameters string, urls ...string) *pgx.ConnConfig {
	t.Helper()
	joined, err := url.Parse(urls[0])
	must(t, err)
	for _, next := range urls[1:] {
		u, err := url.Parse(next)
		must(t, err)
		joined.Host += "," + u.Host
	}
	joined.RawQuery += parameters
	address, err := dburl.Parse(joined.String())
	must(t, err)
	cfg := address.Config()
	cfg.ConnectTimeout = 30 * time.Second
	return cfg
}

// connect connects and returns the port of the server that answered.
func connect(t *testing.T, h *pghosts.Hosts, cfg *pgx.ConnConfig) (port string, conn *pgx.Conn, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, _, err = pghosts.Connect(ctx, h, cfg, pgx.ConnectConfig,
		func(late *pgx.Conn) { _ = late.Close(context.Background()) })
	if err != nil {
		return "", nil, err
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	must(t, conn.QueryRow(ctx, "SHOW port").Scan(&port))
	return port, conn, nil
}

// wantPort checks which server is connected to.
func wantPort(t *testing.T, h *pghosts.Hosts, cfg *pgx.ConnConfig, server *pgtest.Server) {
	t.Helper()
	port, _, err := connect(t, h, cfg)
	if u, _ := url.Parse(server.URL("postgres")); err != nil || port != u.Port() {
		t.Errorf("connected to port %q, want %s: %v", port, u.Port(), err)
	}
}

// silent is a host that accepts connections and sends nothing. accepted counts them.
func silent(t *testing.T) (url string, accepted *atomic.Int64) {
	t.Helper()
	accepted = new(atomic.Int64)
	return held(t, "", nil, func() { accepted.Add(1) }), accepted
}

// held is a host that sends nothing until release is closed. Then it forwards to a server.
func held(t *testing.T, target string, release chan struct{}, accepted func()) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { close(done); _ = listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			accepted()
			go func() {
				defer in.Close()
				select {
				case <-done:
					return
				case <-release:
				}
				out, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); _ = out.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return "postgres://postgres:pgtest@" + listener.Addr().String() + "/postgres?sslmode=disable"
}

func host(t *testing.T, given string) string {
	t.Helper()
	u, err := url.Parse(given)
	must(t, err)
	return u.Host
}

// The caller has less time than ConnectTimeout. The host that answered is tried first afterwards.
func TestConnect_passesASilentHost(t *testing.T) {
	server := pgtest.Shared(t)
	dumb, accepted := silent(t)
	h := pghosts.New()
	cfg := config(t, "", dumb, server.URL("postgres"))
	for range 5 {
		wantPort(t, h, cfg, server)
	}
	if n := accepted.Load(); n != 1 {
		t.Errorf("the host that says nothing was tried %d times, want once", n)
	}
	h.Wait()
}

func TestConnect_obeysTargetSessionAttrs(t *testing.T) {
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	dumb, _ := silent(t)
	p, s := primary.URL("postgres"), standby.URL("postgres")
	for _, c := range []struct {
		attrs string
		hosts []string
		want  *pgtest.Server
	}{
		{"any", []string{s, p}, standby},
		{"primary", []string{s, p}, primary},
		{"read-write", []string{s, dumb, p}, primary},
		{"read-only", []string{p, s}, standby},
		{"standby", []string{p, dumb, s}, standby},
		{"prefer-standby", []string{p, s}, standby},
		{"prefer-standby", []string{p, p}, primary},
		{"prefer-standby", []string{p, dumb}, primary},
		{"", []string{s, p}, primary},
		{"", []string{s}, standby},
	} {
		t.Run(c.attrs, func(t *testing.T) {
			h := pghosts.New()
			attrs := ""
			if c.attrs != "" {
				attrs = "&target_session_attrs=" + c.attrs
			}
			cfg := config(t, attrs, c.hosts...)
			wantPort(t, h, cfg, c.want)
			wantPort(t, h, cfg, c.want)
		})
	}
	for attrs, only := range map[string]string{"standby": p, "primary": s} {
		if _, _, err := connect(t, pghosts.New(),
			config(t, "&target_session_attrs="+attrs, only, only)); err == nil {
			t.Errorf("%s took the other kind", attrs)
		}
	}
}

// The primary hangs, and the standby is refused until it has been promoted, all within one Connect.
func TestConnect_findsAStandbyPromotedMeanwhile(t *testing.T) {
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	dumb, accepted := silent(t)
	cfg := config(t, "&target_session_attrs=primary", dumb, standby.URL("postgres"))
	refused := make(chan struct{}, 1)
	validate := cfg.ValidateConnect
	cfg.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		err := validate(ctx, conn)
		if err != nil {
			select {
			case refused <- struct{}{}:
			default:
			}
		}
		return err
	}
	promoted := make(chan struct{})
	go func() {
		defer close(promoted)
		<-refused
		standby.Promote(t)
	}()
	wantPort(t, pghosts.New(), cfg, standby)
	<-promoted
	if accepted.Load() != 1 {
		t.Errorf("the host that hangs was tried %d times, want once", accepted.Load())
	}
}

// A primary that a standby has taken over from isn't used again, and connections to it are outdated.
func TestConnect_refusesAnOlderTimeline(t *testing.T) {
	old := pgtest.Start(t)
	standby := old.Standby(t)
	h := pghosts.New()
	cfg := config(t, "&target_session_attrs=primary", old.URL("postgres"), standby.URL("postgres"))
	ctx := t.Context()
	before, standing, err := pghosts.Connect(ctx, h, cfg, pgx.ConnectConfig, func(*pgx.Conn) {})
	must(t, err)
	defer before.Close(ctx)
	if standing.Outdated() {
		t.Error("the connection to the only primary is outdated")
	}
	standby.Promote(t)
	wantPort(t, h, cfg, old) // nobody has seen the new one yet
	standing.Silent()
	wantPort(t, h, cfg, standby)
	if !standing.Outdated() {
		t.Error("the connection to the old primary isn't outdated")
	}
	standby.Kill()
	if _, _, err := connect(t, h, cfg); err == nil || !strings.Contains(err.Error(), "timeline 2") {
		t.Errorf("connecting with the old primary alone: %v, want it refused for its timeline", err)
	}
	// Another list of hosts is independent: a copy of the cluster may have its own timelines.
	wantPort(t, h, config(t, "", old.URL("postgres")), old)
	must(t, standby.Start())
	wantPort(t, h, cfg, standby)
}

// Its timelines are unrelated to those of the cluster before.
func TestConnect_acceptsAnotherCluster(t *testing.T) {
	blue := pgtest.Start(t)
	blueStandby := blue.Standby(t)
	green := pgtest.Shared(t)
	blueStandby.Promote(t)
	h := pghosts.New()
	cfg := config(t, "", blueStandby.URL("postgres"), green.URL("postgres"))
	wantPort(t, h, cfg, blueStandby)
	blueStandby.Kill()
	wantPort(t, h, cfg, green)
}

// target_session_attrs decides alone.
func TestConnect_acceptsAServerThatHidesItsIdentity(t *testing.T) {
	server := pgtest.Start(t)
	_, admin, err := connect(t, pghosts.New(), config(t, "", server.URL("postgres")))
	must(t, err)
	_, err = admin.Exec(t.Context(),
		"REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public; CREATE ROLE app LOGIN PASSWORD 'pgtest'")
	must(t, err)
	as := func(u string) string { return strings.Replace(u, "postgres:pgtest@", "app:pgtest@", 1) }
	h, other := pghosts.New(), pgtest.Shared(t).URL("postgres")
	cfg := config(t, "&target_session_attrs=primary", as(server.URL("postgres")), as(other))
	wantPort(t, h, cfg, server)
	// A role that may read it meets the same server, and neither role's connections outdate the other's.
	_, standing, err := pghosts.Connect(t.Context(), h,
		config(t, "&target_session_attrs=primary", server.URL("postgres"), other), pgx.ConnectConfig,
		func(*pgx.Conn) {})
	must(t, err)
	wantPort(t, h, cfg, server)
	if standing.Outdated() {
		t.Error("a role that can't read the server's identity has outdated another one's connection")
	}
}

// The list of hosts is the same.
func TestConnect_toAStandbyOutdatesNobodyElse(t *testing.T) {
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	h := pghosts.New()
	p, s := primary.URL("postgres"), standby.URL("postgres")
	conn, standing, err := pghosts.Connect(t.Context(), h, config(t, "&target_session_attrs=primary", p, s),
		pgx.ConnectConfig, func(*pgx.Conn) {})
	must(t, err)
	defer conn.Close(t.Context())
	wantPort(t, h, config(t, "&target_session_attrs=standby", p, s), standby)
	if standing.Outdated() {
		t.Error("the connection to the primary is outdated")
	}
}

func TestStanding_Alone_waitsForSlowerAttempts(t *testing.T) {
	dumb, _ := silent(t)
	h, release := pghosts.New(), make(chan struct{})
	conn, standing, err := pghosts.Connect(t.Context(), h,
		config(t, "", dumb, pgtest.Shared(t).URL("postgres")),
		func(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
			conn, err := pgx.ConnectConfig(ctx, cfg)
			if err != nil {
				<-release
			}
			return conn, err
		}, func(*pgx.Conn) {})
	must(t, err)
	defer conn.Close(t.Context())
	hasty, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := standing.Alone(hasty); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v while an attempt runs", err)
	}
	close(release)
	must(t, standing.Alone(t.Context()))
}

// pgx does the same.
func TestConnect_endsAtARefusedPassword(t *testing.T) {
	wrong := strings.Replace(pgtest.Shared(t).URL("postgres"), ":pgtest@", ":wrong@", 1)
	dumb, _ := silent(t)
	_, _, err := connect(t, pghosts.New(), config(t, "", wrong, dumb))
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("error = %v, want the refused password", err)
	}
}

// The first caller gives up before the server answers. The second one gets the connection.
func TestDialer_dialOutlivesItsCaller(t *testing.T) {
	release := make(chan struct{})
	hasty, cancel := context.WithCancel(t.Context())
	var accepted atomic.Int64
	slow := held(t, host(t, pgtest.Shared(t).URL("postgres")), release, func() {
		accepted.Add(1)
		cancel()
	})
	d := pghosts.NewDialer(pghosts.New(), config(t, "", slow))
	defer d.Stop()
	if _, err := d.Connect(hasty); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the caller's own end", err)
	}
	close(release)
	conn, err := d.Connect(t.Context())
	must(t, err)
	must(t, conn.(*stdlib.Conn).Ping(t.Context()))
	must(t, conn.Close())
	if accepted.Load() != 1 {
		t.Errorf("%d connections were opened, want one", accepted.Load())
	}
}

// Spare connections are closed too.
func TestDialer_Stop_endsDials(t *testing.T) {
	dumb, _ := silent(t)
	other, _ := silent(t)
	h := pghosts.New()
	d := pghosts.NewDialer(h, config(t, "", dumb, other))
	hasty, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := d.Connect(hasty); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want the deadline", err)
	}
	left := make(chan error)
	go func() {
		_, err := d.Connect(context.Background())
		left <- err
	}()
	d.Stop()
	h.Wait()
	if err := <-left; err == nil {
		t.Error("a Connect during Stop succeeded")
	}
	if _, err := d.Connect(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Stop: %v, want net.ErrClosed", err)
	}
}
