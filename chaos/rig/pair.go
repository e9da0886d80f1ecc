package rig

import (
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// Pair is a PostgreSQL server and its standby, if it has one. URLs name both.
type Pair struct {
	Name    string
	both    []*Server // in the order in which URLs name them
	serving atomic.Pointer[Server]
}

// NewPair starts a server, and a standby if wanted, with the roles that the world needs.
func NewPair(name string, standby bool, settings ...string) (*Pair, error) {
	primary, err := StartServer(settings...)
	if err != nil {
		return nil, err
	}
	p, err := PairOf(name, primary)
	if err != nil {
		primary.Remove()
		return nil, err
	}
	if !standby {
		return p, nil
	}
	second, err := primary.StartStandby()
	if err != nil {
		p.Remove()
		return nil, err
	}
	p.both = append(p.both, second)
	return p, nil
}

// PairOf makes a pair of running servers, with the roles that the world needs. The first is the primary.
func PairOf(name string, servers ...*Server) (*Pair, error) {
	p := &Pair{Name: name, both: servers}
	p.Serve(servers[0])
	return p, servers[0].Exec("postgres", "CREATE ROLE "+ProductRole+" LOGIN PASSWORD '"+ProductPassword+"'",
		"CREATE ROLE "+OutsiderRole+" LOGIN PASSWORD '"+OutsiderPassword+"'")
}

// Serve sets which server takes writes, if another program decides it.
func (p *Pair) Serve(s *Server) { p.serving.Store(s) }

// Primary returns the server that takes writes.
func (p *Pair) Primary() *Server { return p.serving.Load() }

// Standby returns the other server, or nil if there is none.
func (p *Pair) Standby() *Server {
	for _, s := range p.both {
		if s != p.Primary() {
			return s
		}
	}
	return nil
}

// FailOver promotes the standby and returns the old primary, in whatever state that is.
func (p *Pair) FailOver() (old *Server, err error) {
	old = p.Primary()
	next := p.Standby()
	if err := next.Promote(); err != nil {
		return nil, err
	}
	p.Serve(next)
	return old, nil
}

// Rejoin makes the other server, which has ended, a standby of the primary.
func (p *Pair) Rejoin() error {
	if err := p.Standby().Rejoin(p.Primary().Server); err != nil {
		return err
	}
	return p.Primary().Synchronous(true)
}

// Remove ends both servers.
func (p *Pair) Remove() {
	for _, s := range p.both {
		s.Remove()
	}
}

// URL returns a database's URL for the product's role.
func (p *Pair) URL(database string) string {
	return p.both[0].As(ProductRole, ProductPassword, database, p.both[1:]...)
}

// SuperURL returns a database's URL for the superuser.
func (p *Pair) SuperURL(database string) string {
	u, err := pgx.ParseConfig(p.both[0].URL(database))
	if err != nil {
		return ""
	}
	return p.both[0].As(u.User, u.Password, database, p.both[1:]...)
}
