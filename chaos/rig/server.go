// Package rig is the world in which a product is tested: PostgreSQL servers that can fail, processes of the
// product, tenants and their databases, clients, and a program that changes rights by plain SQL. It uses only
// the library's public names.
package rig

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// The role with which the product uses tenants' databases, and the role of other programs.
const (
	ProductRole, ProductPassword   = "product", "product-0"
	OutsiderRole, OutsiderPassword = "outsider", "outsider-0"
)

// Server is a PostgreSQL server.
type Server struct {
	*pgtest.Server
	remove func()
	resume func()
}

// StartServer starts a server. Settings are entries of postgresql.conf.
func StartServer(settings ...string) (*Server, error) {
	s, remove, err := pgtest.Launch(append([]string{"autovacuum=off", "jit=off", "max_wal_senders=8"},
		settings...)...)
	if err != nil {
		return nil, err
	}
	return &Server{Server: s, remove: remove}, nil
}

// ServerAt returns a server that another program runs. The URL is a superuser's.
func ServerAt(superuser *url.URL) *Server {
	return &Server{Server: pgtest.At(superuser), remove: func() {}}
}

// StartStandby starts a synchronous standby: a commit is confirmed only when the standby has it.
func (s *Server) StartStandby() (*Server, error) {
	standby, remove, err := pgtest.LaunchStandby(s.Server)
	if err != nil {
		return nil, err
	}
	return &Server{Server: standby, remove: remove}, s.Synchronous(true)
}

// Synchronous sets whether commits wait for a standby.
func (s *Server) Synchronous(on bool) error {
	names := map[bool]string{true: "*", false: ""}[on]
	return s.Exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'",
		"SELECT pg_reload_conf()")
}

// Remove ends the server and removes its files.
func (s *Server) Remove() {
	s.Resume()
	s.remove()
}

// Hang stops the server from answering until Resume or Crash.
func (s *Server) Hang() error {
	resume, err := s.Suspend()
	s.resume = resume
	return err
}

// Resume continues a server that hangs.
func (s *Server) Resume() {
	if s.resume != nil {
		s.resume()
		s.resume = nil
	}
}

// Crash kills the server and its children, even if they hang.
func (s *Server) Crash() {
	s.Server.Crash()
	s.resume = nil
}

// Promote makes a standby a primary that waits for no standby of its own.
func (s *Server) Promote() error {
	if err := s.Exec("postgres", "SELECT pg_promote(true, 30)"); err != nil {
		return err
	}
	return s.Synchronous(false)
}

// As returns a database's URL for a role. More hosts of the same database may follow.
func (s *Server) As(role, password, database string, more ...*Server) string {
	hosts := s.Address()
	query := "sslmode=disable"
	for _, m := range more {
		hosts += "," + m.Address()
		query = "sslmode=disable&target_session_attrs=read-write"
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: hosts,
		Path: "/" + database, RawQuery: query}
	return u.String()
}

// Exec runs statements as the superuser, each by itself.
func (s *Server) Exec(database string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// Count runs a query that returns one number.
func (s *Server) Count(query string) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, query).Scan(&n)
	return n, err
}
