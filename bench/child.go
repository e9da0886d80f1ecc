package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// servedBy says what a child process serves. Kind names the service; see newService.
type servedBy struct {
	Kind    string
	Guard   string   // a guard's name
	Keys    *wireKey // the tokens' key
	Host    string   // the host database's URL
	Dir     string   // folder of the tenants' SQLite files
	Tenants []string // the tenants' databases, by URL
	Budget  int      // connections to the tenants' server
	Quiet   bool     // the host database without NOTIFY

}

// child is a process that does nothing but serve HTTP, so that its processor time can be measured by itself.
type child struct {
	address string
	stdin   io.WriteCloser
	stdout  *bufio.Reader
}

// serveArgument is the first argument of a child process.
const serveArgument = "serve"

// startChild starts this program as a child, which serves until the scenario ends.
func startChild(b *Bench, what servedBy) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, serveArgument)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.onClose(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	c := &child{stdin: stdin, stdout: bufio.NewReader(stdout)}
	if err := json.NewEncoder(stdin).Encode(what); err != nil {
		return nil, err
	}
	if c.address, err = c.line(); err != nil {
		return nil, fmt.Errorf("the server of %q did not start: %w", what.Kind+what.Guard, err)
	}
	return c, nil
}

// line reads one line of the child's output.
func (c *child) line() (string, error) {
	text, err := c.stdout.ReadString('\n')
	return strings.TrimSpace(text), err
}

// cpuTime asks the child for its processor time (getrusage).
func (c *child) cpuTime() (time.Duration, error) {
	if _, err := io.WriteString(c.stdin, "usage\n"); err != nil {
		return 0, err
	}
	text, err := c.line()
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(text)
}

// serveAsChild is the main function of a child. It returns when its standard input ends.
func serveAsChild() error {
	in := bufio.NewReader(os.Stdin)
	text, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var what servedBy
	if err := json.Unmarshal(text, &what); err != nil {
		return err
	}
	h, closed, err := newService(&what)
	if err != nil {
		return err
	}
	defer closed()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, h) }()
	for fmt.Println(l.Addr()); ; fmt.Println(cpuTime()) {
		if _, err := in.ReadString('\n'); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
