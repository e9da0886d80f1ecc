package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/app"
)

// Process is a process of the product. It ends when this one does.
type Process struct {
	Name string
	// Args are flags of package app.
	Args []string
	// Wrap is a program that starts the process, with its arguments, such as prlimit.
	Wrap []string
	// Env is added to its environment.
	Env []string

	addr  string
	log   string
	cmd   *exec.Cmd
	stdin io.Closer

	mu     sync.Mutex // guards what follows
	exited chan struct{}
	lives  []life
}

// life is the time from a start to an end by SIGKILL, or until now.
type life struct{ began, killed time.Time }

// secret signs the tokens of this run.
const secret = "chaos-secret-0123456789-0123456789-0123456789"

// NewProcess prepares a process that writes its log into a folder.
func NewProcess(dir, name, hostURL string, args ...string) (*Process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	p := &Process{Name: name, Args: args, addr: listener.Addr().String(),
		log: filepath.Join(dir, name+".log")}
	p.Env = []string{app.HostURLEnv + "=" + hostURL, app.SecretEnv + "=" + secret}
	return p, nil
}

// Base returns the URL of the process's root.
func (p *Process) Base() string { return "http://" + p.addr }

// Start starts the process, and waits until it is ready.
func (p *Process) Start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := append(append([]string{}, p.Wrap...), self, app.Argument, "-addr", p.addr)
	argv = append(argv, p.Args...)
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	p.mu.Lock()
	p.cmd, p.stdin, p.exited = cmd, stdin, exited
	p.lives = append(p.lives, life{began: time.Now()})
	p.mu.Unlock()
	return p.awaitReady(exited)
}

// awaitReady polls until the process answers.
func (p *Process) awaitReady(exited chan struct{}) error {
	deadline, poll := time.After(40*time.Second), time.NewTicker(20*time.Millisecond)
	defer poll.Stop()
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for {
		if r, err := client.Get(p.Base() + "/readyz"); err == nil {
			_ = r.Body.Close()
			return nil
		}
		select {
		case <-poll.C:
		case <-exited:
			return fmt.Errorf("%s exited: %s", p.Name, p.Log(800))
		case <-deadline:
			return fmt.Errorf("%s isn't ready: %s", p.Name, p.Log(800))
		}
	}
}

// Kill ends the process at once, as an out-of-memory killer does.
func (p *Process) Kill() {
	p.mu.Lock()
	p.lives[len(p.lives)-1].killed = time.Now()
	p.mu.Unlock()
	_ = p.Signal(syscall.SIGKILL)
	<-p.exited
}

// End asks the process to end and waits. It returns an error if the process didn't end properly.
func (p *Process) End(limit time.Duration) error {
	if !p.Alive() {
		return nil
	}
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s didn't end within %v", p.Name, limit)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with code %d: %s", p.Name, code, p.Log(800))
	}
	return nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Alive reports whether the process runs.
func (p *Process) Alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// WasKilled reports whether the process was killed, or down after a kill, at any time between the two.
func (p *Process) WasKilled(from, to time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, l := range p.lives {
		if l.killed.IsZero() {
			continue
		}
		back := time.Now()
		if i+1 < len(p.lives) {
			back = p.lives[i+1].began.Add(time.Second)
		}
		if l.killed.Before(to) && back.After(from) {
			return true
		}
	}
	return false
}

// LastKill returns when the process was killed last, or zero.
func (p *Process) LastKill() (last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lives {
		if l.killed.After(last) {
			last = l.killed
		}
	}
	return last
}

// State asks the process for its State, after a garbage collection.
func (p *Process) State() (s app.State, err error) {
	client := http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	r, err := client.Get(p.Base() + "/debug/state?gc")
	if err != nil {
		return s, err
	}
	defer r.Body.Close()
	return s, json.NewDecoder(r.Body).Decode(&s)
}

// StepClock sets how far the clock of a process that was started with -clock is ahead of the machine's.
func (p *Process) StepClock(ahead time.Duration) error {
	r, err := http.Post(p.Base()+"/debug/clock?ahead="+ahead.String(), "", nil)
	if err != nil {
		return err
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

var startedBy = regexp.MustCompile(`(?m)^created by (\S+)`)

// goroutines counts the process's goroutines by the functions that started them.
func (p *Process) goroutines() map[string]int {
	client := http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	r, err := client.Get(p.Base() + "/debug/state?stacks")
	if err != nil {
		return nil
	}
	defer r.Body.Close()
	stacks, _ := io.ReadAll(r.Body)
	from := make(map[string]int)
	for _, match := range startedBy.FindAllSubmatch(stacks, -1) {
		from[string(match[1])]++
	}
	return from
}

// Log returns the end of its log.
func (p *Process) Log(most int) string {
	b, _ := os.ReadFile(p.log)
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// Complaints returns an error if the process's log has a panic or a data race.
func (p *Process) Complaints() error {
	b, _ := os.ReadFile(p.log)
	for _, word := range []string{"panic:", "DATA RACE", "fatal error:"} {
		if i := strings.Index(string(b), word); i >= 0 {
			return errors.New(p.Name + ": " + string(b[i:min(len(b), i+3000)]))
		}
	}
	return nil
}
