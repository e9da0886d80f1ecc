package keyedpool

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutation is a defect that the invariants must notice. It is made in a copy of one source file, which `go
// test -overlay` puts in the original's place: the code itself knows nothing of it.
type mutation struct {
	name  string
	file  string
	edits []string // old, new, old, new, …; every old text must occur once
}

var mutations = []mutation{
	{"a place is given back when the close begins", "conn.go", []string{
		"\ts.closing++\n", "\ts.closing++\n\ts.used--\n",
		"\ts.used--\n\tif err", "\tif err",
	}},
	{"a connection is dropped when its waiter leaves", "waiter.go", []string{
		"s.giveBack(g.conn.conn, Healthy, s.pool.now())\n", "_ = g\n",
	}},
	{"a lease with a new target changes nothing", "tenant.go", []string{
		"t.draining == 0 && t.target == target", "t.draining == 0",
	}},
	{"a connection of an old generation goes back to the idle ones", "conn.go", []string{
		"v != Healthy || db.stale || c", "v != Healthy || c",
	}},
	{"the next generation takes over the connections", "tenant.go", []string{
		"\tdb.figures = old.figures.clone()\n",
		"\tdb.figures = old.figures.clone()\n" +
			"\tfor c := old.idle; c != nil && old.server == s; c = c.next {\n\t\tc.db = db\n\t\tdb.live++\n\t\told.live--\n\t}\n" +
			"\tif old.server == s {\n\t\tdb.idle, old.idle = old.idle, nil\n\t\ts.victims.remove(old)\n\t\ts.victims.add(db)\n\t}\n",
	}},
	{"the cap is not kept", "server.go", []string{"case db.live >= s.cap:", "case false:"}},
	{"the dial slots are not kept", "server.go", []string{"s.dialing < s.pool.cfg.DialSlots && ", ""}},
	{"the last in line is served first", "conn.go", []string{
		"s.grant(c, c.db.waiting.first(), now)", "s.grant(c, c.db.waiting.back.value, now)",
	}},
	{"a second connection comes before another tenant's first", "server.go", []string{
		"if s.needy.n > 0 || s.growing.n", "if s.growing.n",
		"s.serveNeedy() || s.serveGrowing()", "s.serveGrowing() || s.serveNeedy()",
	}},
	{"nobody is stolen from", "server.go", []string{"victim := s.victims.first()\n\tif victim == nil", "victim := s.victims.first()\n\tif victim == nil || true"}},
	{"the breaker lets every dial through", "breaker.go", []string{"return state == BreakerClosed ||", "return true || state == BreakerClosed ||"}},
	{"a half-open breaker lets several probes through", "breaker.go", []string{"b.probing = b.state(now) == BreakerHalfOpen\n\treturn b.probing", "return b.state(now) == BreakerHalfOpen"}},
	{"a tenant does not back off", "server.go", []string{"case db.backoff.waiting(now):", "case false:"}},
	{"idle connections stay", "sweep.go", []string{"now >= c.idleUntil || now >= c.expires", "false && now >= c.idleUntil"}},
	{"a tenant rests while it has connections", "tenant.go", []string{"\tif t.places.Load() > 0 {\n\t\treturn false\n\t}\n", ""}},
	{"a tenant rests while somebody waits", "tenant.go", []string{"if db.waiting.n > 0 || db.backoff", "if db.backoff"}},
	{"a backoff ends when the tenant rests", "tenant.go", []string{"db.waiting.n > 0 || db.backoff.waiting(s.pool.now())", "db.waiting.n > 0"}},
	{"a lease counts for nothing", "tenant.go", []string{"unused, db := t.refs == 0, t", "unused, db := true, t"}},
	{"who gave a connection back may do so again", "conn.go", []string{"c.use == h.use && c.state", "c.state"}},
	{"a nested acquire is suspected everywhere", "waiter.go", []string{"(c.owner == nil || !db.awaitedBy(c.owner))", "false"}},
	{"Close does not wait", "close.go", []string{"if !await(ctx, gone) {", "if _ = gone; false {"}},
}

func TestEveryMutationIsCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package once for each mutation")
	}
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := m.run(t)
			if err == nil {
				t.Fatalf("no invariant noticed it:\n%s", out)
			}
			// Whichever invariant: one defect breaks several, and the scenario decides which is seen first.
			// Nor need it be seen twice: a defect may show only by the order in which goroutines run.
			if !strings.Contains(out, broken) {
				t.Fatalf("it failed, but by no invariant: %v\n%s", err, out)
			}
		})
	}
}

// run plays scenarios with the mutation in place.
func (m mutation) run(t *testing.T) (string, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(source)
	for i := 0; i < len(m.edits); i += 2 {
		if n := strings.Count(text, m.edits[i]); n != 1 {
			t.Fatalf("%s has %d times, not once: %s", m.file, n, m.edits[i])
		}
		text = strings.Replace(text, m.edits[i], m.edits[i+1], 1)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, m.file)
	original, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	plan := filepath.Join(dir, "overlay.json")
	for name, content := range map[string][]byte{mutant: []byte(text), plan: overlay} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// -vet=off: a mutant may look as wrong as it is.
	out, err := exec.Command("go", "test", "-overlay="+plan, "-vet=off", "-timeout=5m", "-run=^TestInvariants", ".",
		"-rapid.checks=20000", "-rapid.shrinktime=0s", "-rapid.nofailfile").CombinedOutput()
	if strings.Contains(string(out), "[build failed]") {
		t.Fatalf("the mutant does not compile:\n%s", out)
	}
	return string(out), err
}
