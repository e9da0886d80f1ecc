package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/judge"
	"github.com/tenantdb/tenantdb/hostdb"
)

// Size says how large a world is.
type Size struct {
	// Tenants is how many tenants each PostgreSQL server has, Files how many have SQLite files.
	Tenants, Files int
	// Processes is how many processes serve at once.
	Processes int
	// Budget is PoolConfig.MaxConns of a process times Processes.
	Budget int
	// Rate is how many requests are sent in a second.
	Rate float64
	// Dir is the folder of files and logs, which must be there.
	Dir string
	// Args are more flags for the processes.
	Args []string
	// Servers is how many PostgreSQL servers have tenants: the first one has a standby.
	Servers int
	// NoStandbys means that servers have no standbys.
	NoStandbys bool
	// Settings are more entries of postgresql.conf of the tenants' servers.
	Settings []string
	// GivenHost has the host database, and Given are the first servers, if the world doesn't start them
	// itself. The caller ends them.
	GivenHost *Pair
	Given     []*Pair
}

// Bound is how long after its commit a change may go unnoticed: CacheConfig.MaxStaleness, and time for the
// request to arrive.
const Bound = 3*time.Second + 250*time.Millisecond

// World is a product under load, with everything it needs.
type World struct {
	Size
	Seed      uint64
	Random    *rand.Rand // for faults
	Host      *Pair
	Pairs     []*Pair
	Tenants   []*Tenant
	Processes []*Process
	Judge     *judge.Judge
	Load      *Load
	Rights    *Rights

	sockets    []*sockets
	problems   []string          // of the fault that is tried
	extra      int               // processes beside those of the size, until the fault is over
	base, held map[*Process]rest // what processes held at rest: at first, and now
	rests      int               // how often that was measured
	clients    []Client
	started    int
	closers    []func()
	closing    sync.Once
}

// maxConnections is max_connections of the tenants' servers. Some of them are reserved for the superuser.
const maxConnections = 60

// NewWorld builds a world and starts its processes. No load is sent yet.
func NewWorld(seed uint64, size Size) (w *World, err error) {
	w = &World{Size: size, Seed: seed, Random: rand.New(rand.NewPCG(seed, 1)), Judge: judge.New(Bound)}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if err := os.MkdirAll(filepath.Join(size.Dir, "tenants"), 0o700); err != nil {
		return w, err
	}
	if w.Host = size.GivenHost; w.Host == nil {
		if w.Host, err = w.startPair("host", !size.NoStandbys); err != nil {
			return w, err
		}
	}
	if err := w.Host.Primary().Exec("postgres", "CREATE DATABASE host"); err != nil {
		return w, err
	}
	settings := append([]string{fmt.Sprintf("max_connections=%d", maxConnections),
		"superuser_reserved_connections=6"}, size.Settings...)
	w.Pairs = slices.Clone(size.Given)
	for i := len(w.Pairs); i < size.Servers; i++ {
		pair, err := w.startPair(fmt.Sprintf("server %d", i), i == 0 && !size.NoStandbys, settings...)
		if err != nil {
			return w, err
		}
		w.Pairs = append(w.Pairs, pair)
	}
	for _, pair := range w.Pairs {
		for _, s := range pair.both {
			w.sockets = append(w.sockets, watchSockets(s))
		}
	}
	if err := w.populate(); err != nil {
		return w, err
	}
	for range size.Processes {
		p, err := w.StartProcess()
		if err != nil {
			return w, err
		}
		w.Processes = append(w.Processes, p)
	}
	w.Load = NewLoad(w.Judge, w.clients)
	w.Load.Rate = size.Rate
	w.Load.Send(w.Processes...)
	if err := w.touchAll(); err != nil {
		return w, err
	}
	w.Load.Start(w.Seed)
	return w, nil
}

// startPair starts a server and its standby.
func (w *World) startPair(name string, standby bool, settings ...string) (*Pair, error) {
	p, err := NewPair(name, standby, settings...)
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, p.Remove)
	return p, nil
}

// populate makes the tenants, their databases, and their rows in the host database.
func (w *World) populate() error {
	for _, p := range w.Pairs {
		for i := range w.Size.Tenants {
			slug := fmt.Sprintf("pg-%d-%04d", slices.Index(w.Pairs, p), i)
			w.Tenants = append(w.Tenants, &Tenant{
				Slug: slug, Pair: p, Database: strings.ReplaceAll(slug, "-", "_")})
		}
	}
	for i := range w.Files {
		w.Tenants = append(w.Tenants, &Tenant{Slug: fmt.Sprintf("file-%04d", i)})
	}
	if err := w.register(); err != nil {
		return err
	}
	var making sync.WaitGroup
	errs, turns := make(chan error, len(w.Tenants)), make(chan struct{}, 4)
	for _, t := range w.Tenants {
		turns <- struct{}{}
		making.Go(func() {
			defer func() { <-turns }()
			if t.Pair != nil {
				errs <- MakeDatabase(t.Pair.Primary(), t.Database, t.Slug, 1)
			} else {
				errs <- MakeFile(t.File, t.Slug, 1)
			}
		})
	}
	making.Wait()
	close(errs)
	var err error
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// register writes the host database's rows through the library, which also makes the schema.
func (w *World) register() error {
	ctx := context.Background()
	host, err := hostdb.Open(ctx, w.HostURL())
	if err != nil {
		return err
	}
	defer host.Close()
	for chunk := range slices.Chunk(w.Tenants, 200) {
		err := host.InTx(ctx, func(tx *hostdb.Tx) error {
			for _, t := range chunk {
				if err := w.registerOne(ctx, tx, t); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, t := range w.Tenants {
		w.clients = append(w.clients, t.Clients...)
	}
	return nil
}

// membersPerTenant is how many users each tenant has.
const membersPerTenant = 3

func (w *World) registerOne(ctx context.Context, tx *hostdb.Tx, t *Tenant) error {
	t.ID, t.Users, t.Clients = hostdb.NewID(), make(map[string]string), nil
	t.File = filepath.Join(w.Dir, "tenants", t.ID+".db")
	url := "sqlite:" + t.ID + ".db"
	if t.Pair != nil {
		url, t.File = t.Pair.URL(t.Database), ""
	}
	row := &hostdb.TenantCatalog{ID: t.ID, Name: t.Slug, Slug: t.Slug, DBURL: hostdb.Secret(url),
		IsActive: true, Status: hostdb.TenantActive, PlanTier: "pro"}
	if err := tx.Tenants.Insert(ctx, row); err != nil {
		return err
	}
	paid := &hostdb.Subscription{TenantID: t.ID, PlanTier: "pro", Status: "active"}
	if err := tx.Subscriptions.Insert(ctx, paid); err != nil {
		return err
	}
	for i := range membersPerTenant {
		subject := fmt.Sprintf("%s-u%d", t.Slug, i)
		token, err := newToken(subject)
		if err != nil {
			return err
		}
		user := &hostdb.GlobalUser{OAuthID: subject, Email: subject + "@example.com"}
		if err := tx.Users.Insert(ctx, user); err != nil {
			return err
		}
		role := hostdb.RoleMember
		if i == 0 {
			role = hostdb.RoleOwner
		}
		if err := tx.Memberships.Insert(ctx, &hostdb.Membership{UserID: user.ID, TenantID: t.ID, Role: role,
			IsActive: true}); err != nil {
			return err
		}
		t.Users[subject] = user.ID
		t.Clients = append(t.Clients, Client{User: subject, Tenant: t, Token: token})
	}
	return nil
}

// HostURL returns the host database's URL, which names all of its hosts.
func (w *World) HostURL() string { return w.Host.SuperURL("host") }

// PerProcess returns how many connections a process may have to each server.
func (w *World) PerProcess() int { return w.Budget / w.Size.Processes }

// StartProcess starts a process. It gets no requests yet.
func (w *World) StartProcess(args ...string) (*Process, error) {
	p, err := w.PrepareProcess(args...)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

// PrepareProcess makes a process that isn't started yet, with more flags of package app. It is killed when
// the world ends.
func (w *World) PrepareProcess(args ...string) (*Process, error) {
	args = append([]string{"-max-conns", fmt.Sprint(w.PerProcess()), "-sqlite-dir",
		filepath.Join(w.Dir, "tenants")}, append(w.Args, args...)...)
	name := fmt.Sprintf("process-%d", w.started)
	p, err := NewProcess(w.Dir, name, w.HostURL()+"&application_name="+name, args...)
	w.started++
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, func() {
		if p.Alive() {
			p.Kill()
		}
	})
	return p, nil
}

// Extra allows more processes than the world's size until the fault is over, as in a deploy.
func (w *World) Extra(n int) { w.extra = n }

// OnClose calls a function at the end, before those that were given earlier.
func (w *World) OnClose(f func()) { w.closers = append(w.closers, f) }

// Close ends everything that the world started, in reverse order. It may be called twice.
func (w *World) Close() {
	w.closing.Do(func() {
		for _, s := range w.sockets {
			s.close()
		}
		for _, f := range slices.Backward(w.closers) {
			f()
		}
	})
}

// CloseOnSignal closes the world before a signal ends the program. The returned function undoes that.
func (w *World) CloseOnSignal() (undo func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			w.Close()
			_ = os.RemoveAll(w.Dir)
			os.Exit(1)
		case <-done:
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// Of returns the tenants of a pair of servers, or, for nil, those with files.
func (w *World) Of(p *Pair) (list []*Tenant) {
	for _, t := range w.Tenants {
		if t.Pair == p {
			list = append(list, t)
		}
	}
	return list
}

// Hammer sends requests to some tenants all the time, reads and writes in turn. The returned function stops
// it.
func (w *World) Hammer(tenants ...*Tenant) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	asking.Go(func() {
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			kind := []string{"me", "write"}[i%2]
			p, c := w.Processes[i%len(w.Processes)], tenants[i/2%len(tenants)].Clients[0]
			asking.Go(func() { w.Load.Add(w.Load.Ask(context.Background(), p, kind, c, "")) })
		}
	})
	return func() {
		cancel()
		asking.Wait()
	}
}

// CheckWrites looks for every acknowledged write in the tenants' databases. It returns how many there are,
// and how many are missing.
func (w *World) CheckWrites() (acknowledged, lost int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	written := w.Judge.Written()
	for _, t := range w.Tenants {
		if len(written[t.Slug]) == 0 {
			continue
		}
		rows := make(map[string]string)
		if e := t.rows(ctx, rows); e != nil {
			err = errors.Join(err, fmt.Errorf("the writes of %s can't be looked for: %w", t.Slug, e))
			continue
		}
		acknowledged += len(written[t.Slug])
		lost += w.Judge.Found(t.Slug, written[t.Slug], rows)
	}
	return acknowledged, lost, err
}
