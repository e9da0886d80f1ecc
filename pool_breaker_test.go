package tenantdb_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// secured answers an SSLRequest and then speaks TLS with a certificate that nobody has signed.
func secured(t *testing.T) func(net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"other.example"}, NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	must(t, err)
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS12,
	}
	return func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, 8)); err == nil {
			_, _ = conn.Write([]byte("S"))
			_ = tls.Server(conn, config).Handshake()
		}
	}
}

// TestPool_tenantsFaultLeavesTheBreakerClosed tries everything that can be wrong with a db_url.
func TestPool_tenantsFaultLeavesTheBreakerClosed(t *testing.T) {
	s := pgtest.Shared(t)
	good, err := url.Parse(s.Database(t))
	must(t, err)
	with := func(change func(*url.URL, url.Values)) string {
		u := *good
		query := u.Query()
		change(&u, query)
		u.RawQuery = query.Encode()
		return u.String()
	}
	untrusted := listen(t, secured(t))
	for name, bad := range map[string]string{
		"password": with(func(u *url.URL, _ url.Values) {
			u.User = url.UserPassword("nobody_at_all", "wrong")
		}),
		"database":  with(func(u *url.URL, _ url.Values) { u.Path = "/none" }),
		"attribute": with(func(_ *url.URL, q url.Values) { q.Set("target_session_attrs", "standby") }),
		"setting":   with(func(_ *url.URL, q url.Values) { q.Set("no_such_setting", "1") }),
		"TLS":       with(func(_ *url.URL, q url.Values) { q.Set("sslmode", "require") }),
		"certificate": with(func(u *url.URL, q url.Values) {
			u.Host = untrusted
			q.Set("sslmode", "verify-full")
		}),
		"of several": with(func(u *url.URL, q url.Values) {
			u.Host += "," + listen(t, func(net.Conn) {})
			q.Set("target_session_attrs", "standby")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := faultPool(t, tenantdb.PoolConfig{})
			for range 8 { // more than the breaker's threshold
				tenant := &hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(bad)}
				if err := query(t.Context(), p, tenant); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
					t.Errorf("got %v", err)
				}
			}
			for _, server := range p.Stats().Servers {
				if server.Breaker != "closed" || server.OpenFailures != 8 {
					t.Errorf("after eight failures of tenants: %+v", server)
				}
			}
		})
	}
}

// TestPool_serversFaultOpensTheBreaker tries everything that can be wrong with a server. Its other tenants
// don't wait for it again.
func TestPool_serversFaultOpensTheBreaker(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, away.Close())
	starting := "E\x00\x00\x00\x2dSFATAL\x00VFATAL\x00C57P03\x00Mstarting up\x00\x00"
	starting = "E\x00\x00\x00" + string(rune(len(starting)-1)) + starting[5:]
	for name, address := range map[string]string{
		"refuses":  away.Addr().String(),
		"is mute":  listen(t, silent),
		"hangs up": listen(t, func(net.Conn) {}),
		"starts": listen(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 512))
			_, _ = io.WriteString(c, starting)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := faultPool(t, tenantdb.PoolConfig{
				ConnectTimeout: 100 * time.Millisecond, ServerRetry: time.Hour,
			})
			var err error
			for range 6 {
				tenant := &hostdb.TenantCatalog{
					ID:    hostdb.NewID(),
					DBURL: hostdb.Secret("postgres://u:p@" + address + "/d?sslmode=disable"),
				}
				err = query(t.Context(), p, tenant)
				if !errors.Is(err, tenantdb.ErrTenantUnavailable) || errors.Is(err, tenantdb.ErrBusy) {
					t.Errorf("got %v", err)
				}
			}
			if server := p.Stats().Servers[0]; server.Breaker != "open" || server.OpenFailures != 5 {
				t.Errorf("%v; %+v", err, server)
			}
		})
	}
}

// TestPool_silentServerIsUnavailableNotBusy has many callers at once, who wait for less time than a dial may
// take.
func TestPool_silentServerIsUnavailableNotBusy(t *testing.T) {
	address := listen(t, silent)
	p := faultPool(t, tenantdb.PoolConfig{
		ConnectTimeout: 5 * time.Second, AcquireTimeout: 200 * time.Millisecond,
	})
	answers := make(chan error)
	for range 20 {
		tenant := &hostdb.TenantCatalog{
			ID: hostdb.NewID(), DBURL: hostdb.Secret("postgres://u:p@" + address + "/d?sslmode=disable"),
		}
		go func() { answers <- query(t.Context(), p, tenant) }()
	}
	for range 20 {
		if err := <-answers; tenantdb.StatusCode(err) != 503 ||
			!errors.Is(err, tenantdb.ErrTenantUnavailable) || errors.Is(err, tenantdb.ErrBusy) {
			t.Errorf("got %v", err)
		}
	}
}
