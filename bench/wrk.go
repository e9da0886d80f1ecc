package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

var httpScenario = Scenario{
	Name:  "http",
	Title: "Requests over HTTP",
	About: `The same guards in front of a handler that writes two bytes, each in a server process of its own,
under wrk (1 thread, 32 connections) on loopback; one token. CPU is the server process's for one request
(getrusage); wrk shares the machine. Target: tenantdb ≥ 0.97 of the lower bound's rate.`,
	Open: openHTTP,
}

func openHTTP(b *Bench) (*Comparison, error) {
	if _, err := exec.LookPath("wrk"); err != nil {
		return nil, fmt.Errorf("wrk is missing; apt-get install wrk: %w", err)
	}
	w, err := newWorld(b, 1, 1)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Bases: []string{bareHandler, lowerBound}, Columns: []Column{
		{Name: "requests/s", Format: integer, Ratio: true},
		{Name: "CPU", Format: nanoseconds}}}
	for _, algorithm := range b.scale.algorithms {
		keys, err := newKeyPair(algorithm)
		if err != nil {
			return nil, err
		}
		wire, err := keys.wire()
		if err != nil {
			return nil, err
		}
		token, err := keys.token(subject(0))
		if err != nil {
			return nil, err
		}
		for _, name := range guards {
			server, err := startChild(b, servedBy{Kind: guardedHandler, Guard: name, Keys: wire,
				Host: w.host.URI(), Dir: filepath.Join(w.dir, "tenants")})
			if err != nil {
				return nil, err
			}
			c.Rows = append(c.Rows, Row{algorithm, name, func() ([]float64, error) {
				return wrk(server, 2*b.scale.load, "Authorization: Bearer "+token,
					tenantHeader+": "+w.tenants[0].Slug)
			}})
		}
	}
	return c, nil
}

var (
	wrkRate    = regexp.MustCompile(`Requests/sec:\s*([0-9.]+)`)
	wrkTotal   = regexp.MustCompile(`([0-9]+) requests in`)
	wrkRefused = regexp.MustCompile(`Non-2xx[^\n]*|Socket errors[^\n]*`)
)

// wrk loads a server for a while. It returns the requests per second, and the server's nanoseconds of CPU
// time for each.
func wrk(server *child, d time.Duration, headers ...string) ([]float64, error) {
	args := []string{"-t1", "-c32", "-d", strconv.Itoa(max(1, int(d.Seconds()))) + "s"}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	before, err := server.cpuTime()
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("wrk", append(args, "http://"+server.address+"/")...).Output()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w", err)
	}
	after, err := server.cpuTime()
	if err != nil {
		return nil, err
	}
	rate, total := wrkRate.FindSubmatch(out), wrkTotal.FindSubmatch(out)
	if refused := wrkRefused.Find(out); refused != nil || rate == nil || total == nil {
		return nil, errors.New("wrk: " + string(refused))
	}
	perSecond, err := strconv.ParseFloat(string(rate[1]), 64)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseFloat(string(total[1]), 64)
	return []float64{perSecond, float64(after-before) / n}, err
}
