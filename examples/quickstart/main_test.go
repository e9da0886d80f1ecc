package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(m))
}

// TestQuickstart_printedCommandsWork builds the program, starts it as the README says, and sends the requests
// that it prints.
func TestQuickstart_printedCommandsWork(t *testing.T) {
	binary := build(t)
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			args := []string{"-addr", freeAddress(t)}
			if engine == "postgres" {
				args = append(args, "-postgres", pgtest.Start(t).Database(t))
			}
			for range 2 { // the second start finds what the first one made, or makes it anew
				play(t, exec.Command(binary, args...))
			}
		})
	}
}

func TestQuickstart_leavesNothingBehind_whenItsPortIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cmd := exec.Command(build(t), "-addr", taken.Addr().String())
	noLeftovers := ownTemp(t, cmd)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || out.String() != "" ||
		!strings.Contains(complaint.String(), taken.Addr().String()) {
		t.Errorf("%v, output %q, complaint %q; want a failure that names the address, and no output", err,
			out.String(), complaint.String())
	}
	noLeftovers()
}

func TestSetUp_leavesNothingBehind_whenItFails(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := setUp(ctx, ""); err == nil {
		t.Fatal("set up although the context was over")
	}
	none(t, dir)
}

// build compiles the program.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// ownTemp gives the program a temporary directory of its own. The returned function checks that the program
// left nothing there.
func ownTemp(t *testing.T, cmd *exec.Cmd) func() {
	t.Helper()
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	return func() { none(t, dir) }
}

// none checks that a directory has no files.
func none(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// play starts the program, sends its requests and ends it.
func play(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	noLeftovers := ownTemp(t, cmd)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	tokens, commands := make(map[string]string), []string{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if name, token, ok := strings.Cut(lines.Text(), "="); ok && (name == "ANN" || name == "BOB") {
			tokens["$"+name] = token
		}
		if strings.HasPrefix(lines.Text(), "curl ") {
			commands = append(commands, lines.Text())
		}
		if strings.Contains(lines.Text(), "Ctrl-C") {
			break
		}
	}
	want := []struct {
		status int
		body   string
	}{{201, ""}, {200, "- buy milk (ann@example.com)"}, {200, "notes of globex"},
		{403, `"code":"not_member"`}}
	if len(commands) != len(want) {
		t.Fatalf("%d commands: %v", len(commands), commands)
	}
	for i, command := range commands {
		status, body := send(t, command, tokens)
		if status != want[i].status || !strings.Contains(body, want[i].body) {
			t.Errorf("%s\n%d %s; want %d %s", command, status, body, want[i].status, want[i].body)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	noLeftovers()
}

// send does what a printed curl command does. It waits until the server listens.
func send(t *testing.T, command string, tokens map[string]string) (int, string) {
	t.Helper()
	method, data := http.MethodGet, ""
	if m := regexp.MustCompile(`-d "([^"]*)"`).FindStringSubmatch(command); m != nil {
		method, data = http.MethodPost, m[1]
	}
	r, err := http.NewRequest(method, command[strings.LastIndexByte(command, ' ')+1:],
		strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`-H "([^:]*): ([^"]*)"`).FindAllStringSubmatch(command, -1) {
		value := m[2]
		for name, token := range tokens {
			value = strings.ReplaceAll(value, name, token)
		}
		r.Header.Set(m[1], value)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		response, err := http.DefaultClient.Do(r)
		if err == nil {
			defer response.Body.Close()
			var body strings.Builder
			_, _ = bufio.NewReader(response.Body).WriteTo(&body)
			return response.StatusCode, body.String()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", command, err)
		}
	}
}

// freeAddress returns a loopback address that is free now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr())
}
