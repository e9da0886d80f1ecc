package rough

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// names is a world whose first tenants' server is known by a name. The name changes its meaning, or can't be
// resolved.
var names = World{Name: "names", needs: []need{ip, nft}, size: named, prepare: useName, faults: []rig.Fault{
	{Name: "server killed, its name moves to the standby", Settle: 6 * time.Second, Do: nameMoves},
	{Name: "resolver silent for 20 s, backends terminated", Settle: 6 * time.Second, Do: nameLost(silent)},
	{Name: "server's name unknown for 20 s, backends terminated", Settle: 6 * time.Second,
		Do: nameLost(unknown)},
}}

// The name of the server, and the two addresses that it may have. Both servers have the same port, as is
// usual if only a name changes.
const (
	serverName                  = "tenants.example"
	firstAddress, secondAddress = "127.0.1.1", "127.0.1.2"
)

// dns is the resolver of this process's world.
var dns *resolver

// named makes programs that are started later ask the resolver.
func named(dir string) (rig.Size, error) {
	var err error
	if dns, err = newResolver("127.0.0.1:53"); err != nil {
		return rig.Size{}, err
	}
	dns.say(firstAddress)
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return rig.Size{}, err
	}
	real, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return rig.Size{}, err
	}
	size, e := small(dir)
	return size, errors.Join(e, syscall.Mount(conf, real, "", syscall.MS_BIND, ""))
}

// useName gives both servers of the first pair a port that they share, and the tenants a URL with the name.
func useName(w *rig.World) error {
	p := w.Pairs[0]
	rules := "table ip names {\nchain out {\ntype nat hook output priority -100\n"
	for address, s := range map[string]*rig.Server{firstAddress: p.Primary(), secondAddress: p.Standby()} {
		rules += fmt.Sprintf("ip daddr %s tcp dport 5432 dnat to %s\n", address, s.Address())
	}
	if err := nftables(rules + "}\n}\n"); err != nil {
		return err
	}
	for _, t := range w.Of(p) {
		u := url.URL{Scheme: "postgres", User: url.UserPassword(rig.ProductRole, rig.ProductPassword),
			Host: serverName + ":5432",
			Path: "/" + t.Database, RawQuery: "sslmode=disable"}
		if err := w.Move(t, u.String()); err != nil {
			return err
		}
	}
	return nil
}

// nameMoves changes the name 2 s after the standby was promoted.
func nameMoves(w *rig.World, t *rig.Trial) error {
	p := w.Pairs[0]
	t.Spares = elsewhere(p)
	p.Primary().Crash()
	pause(2 * time.Second)
	if _, err := p.FailOver(); err != nil {
		return err
	}
	pause(2 * time.Second)
	dns.say(secondAddress)
	t.Mended()
	pause(8 * time.Second)
	return p.Rejoin()
}

// nameLost makes the resolver fail while new connections are needed.
func nameLost(how string) func(w *rig.World, t *rig.Trial) error {
	return func(w *rig.World, t *rig.Trial) error {
		p := w.Pairs[0]
		t.Spares = elsewhere(p)
		dns.say(how)
		if err := terminate(p.Primary()); err != nil {
			return err
		}
		pause(20 * time.Second)
		dns.say(secondAddress)
		t.Mended()
		return nil
	}
}
