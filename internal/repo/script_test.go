package repo

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tools are the programs that test.sh looks for, each with the Debian package that has it.
var tools = map[string]string{
	"initdb": "postgresql", "pgbouncer": "pgbouncer", "wrk": "wrk", "npm": "npm", "nft": "nftables",
	"ip": "iproute2",
}

// script is a copy of test.sh in a directory of its own, with a PATH that holds stand-ins only. Each stand-in
// writes its name and arguments into a log.
type script struct {
	t        *testing.T
	dir, bin string
}

func newScript(t *testing.T) *script {
	t.Helper()
	s := &script{t: t, dir: t.TempDir()}
	s.bin = filepath.Join(s.dir, "bin")
	must(t, os.Mkdir(s.bin, 0o755))
	// Nothing outside the directory is looked at or written.
	text := strings.NewReplacer("/usr/", s.dir+"/usr/", "/etc/", s.dir+"/etc/").Replace(read(t, "test.sh"))
	must(t, os.WriteFile(filepath.Join(s.dir, "test.sh"), []byte(text), 0o755))
	for _, module := range strings.Fields(
		"contrib/gin contrib/prometheus examples/routers examples/orm stripehook/striptest bench chaos") {
		must(t, os.MkdirAll(filepath.Join(s.dir, module), 0o755))
	}
	for _, name := range []string{"sh", "dirname", "mkdir", "tee", "ls", "env"} {
		path, err := exec.LookPath(name)
		must(t, err)
		must(t, os.Symlink(path, filepath.Join(s.bin, name)))
	}
	s.provide("go", "gofmt", "sudo", "apt-get")
	must(t, os.WriteFile(filepath.Join(s.bin, "id"), []byte("#!/bin/sh\necho 0\n"), 0o755))
	for tool := range tools {
		s.provide(tool)
	}
	return s
}

// provide makes stand-ins, which print nothing.
func (s *script) provide(names ...string) {
	for _, name := range names {
		text := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s/log\n", name, s.dir)
		must(s.t, os.WriteFile(filepath.Join(s.bin, name), []byte(text), 0o755))
	}
}

func (s *script) remove(names ...string) {
	for _, name := range names {
		must(s.t, os.Remove(filepath.Join(s.bin, name)))
	}
}

// run runs the script and returns its exit code, what it printed, and what the stand-ins were called with.
func (s *script) run(environment []string, args ...string) (code int, printed, called string) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.dir, "test.sh"), args...)
	cmd.Env = append([]string{"PATH=" + s.bin}, environment...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out), string(log)
}

func TestScript_installsNothing_whenNothingIsMissing(t *testing.T) {
	code, printed, called := newScript(t).run([]string{"TENANTDB_INSTALL=1", "CI=true"})
	if code != 0 || strings.Contains(called, "apt-get") {
		t.Errorf("exit code %d, printed:\n%s\ncalled:\n%s", code, printed, called)
	}
}

func TestScript_findsToolsOutsideThePath(t *testing.T) {
	s := newScript(t)
	for tool, dir := range map[string]string{
		"initdb": "usr/lib/postgresql/15/bin", "pgbouncer": "usr/sbin", "nft": "usr/sbin",
	} {
		must(t, os.MkdirAll(filepath.Join(s.dir, dir), 0o755))
		must(t, os.Rename(filepath.Join(s.bin, tool), filepath.Join(s.dir, dir, tool)))
	}
	if code, printed, _ := s.run(nil); code != 0 {
		t.Errorf("exit code %d, printed:\n%s", code, printed)
	}
}

func TestScript_namesEachMissingPackageAndStops_unlessToldToInstall(t *testing.T) {
	stops := func(tool string, environment ...string) {
		t.Helper()
		s := newScript(t)
		s.remove(tool)
		code, printed, called := s.run(environment)
		if code != 1 || called != "" {
			t.Errorf("%s, %v: exit code %d, called:\n%s", tool, environment, code, called)
		}
		if !strings.Contains(printed, ": "+tools[tool]+"\n") ||
			!strings.Contains(printed, "TENANTDB_INSTALL=1 ./test.sh") {
			t.Errorf("%s, %v: neither names the package nor says how to go on:\n%s", tool, environment,
				printed)
		}
	}
	for tool := range tools {
		stops(tool)
	}
	stops("wrk", "CI=")
	stops("wrk", "CI=false")
	stops("wrk", "TENANTDB_INSTALL=0")
	stops("wrk", "TENANTDB_INSTALL=0", "CI=true")
}

func TestScript_saysWhatItInstalls_inCIOrWhenTold(t *testing.T) {
	for _, environment := range []string{"TENANTDB_INSTALL=1", "TENANTDB_INSTALL=true", "CI=1", "CI=true"} {
		s := newScript(t)
		s.remove("wrk", "initdb")
		code, printed, called := s.run([]string{environment})
		if code != 0 || !strings.Contains(printed, "installing with apt-get: postgresql wrk\n") {
			t.Errorf("%s: exit code %d, printed:\n%s", environment, code, printed)
		}
		first, _, _ := strings.Cut(called, "\ngo ")
		want := "apt-get update -q\napt-get install -qy --no-install-recommends postgresql wrk"
		if first != want {
			t.Errorf("%s: called\n%s\nwant\n%s", environment, first, want)
		}
	}
}

func TestScript_stopsWithoutAptGet(t *testing.T) {
	s := newScript(t)
	s.remove("npm", "apt-get")
	code, printed, called := s.run([]string{"TENANTDB_INSTALL=1"})
	if code != 1 || called != "" || !strings.Contains(printed, ": npm\n") {
		t.Errorf("exit code %d, printed:\n%s\ncalled:\n%s", code, printed, called)
	}
}

func TestScript_testsEveryModuleWithItsArguments(t *testing.T) {
	code, printed, called := newScript(t).run(nil, "-short", "-run", "X")
	if code != 0 {
		t.Fatalf("exit code %d, printed:\n%s", code, printed)
	}
	for line := range strings.Lines(called) {
		if strings.HasPrefix(line, "go test") && !strings.Contains(line, "-short -run X") {
			t.Errorf("without the arguments: %s", line)
		}
	}
	for _, path := range files(t, "go.mod") {
		module := filepath.ToSlash(filepath.Dir(path))
		if !slices.Contains(strings.Split(printed, "\n"), "== "+module) {
			t.Errorf("module %s isn't tested:\n%s", module, printed)
		}
	}
}

func TestScript_isCalledByCIAsTheReadmeSays(t *testing.T) {
	const command = "TENANTDB_INSTALL=1 ./test.sh"
	for _, path := range []string{"README.md", ".ci/run"} {
		if !strings.Contains(read(t, path), command) {
			t.Errorf("%s doesn't have the command %q", path, command)
		}
	}
}
