package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/tenantdb/tenantdb"
)

// clients is how many clients load a server at once.
const clients = 32

var queryScenario = Scenario{
	Name:  "query",
	Title: "A tenant's query for each request",
	About: `One tenant on PostgreSQL. A handler selects one row by its key, in a server process of its own; 32
clients in a closed loop. The pgxpool has 20 connections, and so has the tenant's share of tenantdb's
budget. CPU is the server process's for one request. Errors are refusals and wrong answers, in the worst
round. Targets: the pool alone ≥ 1.0 and the whole middleware ≥ 0.95 of the hard-wired pgxpool.`,
	Open: func(b *Bench) (*Comparison, error) {
		e, err := b.databases(1)
		if err != nil {
			return nil, err
		}
		c := &Comparison{Bases: []string{hardWired}, Columns: queryColumns}
		for _, kind := range []string{hardWired, poolAlone, wholePath, openEach} {
			budget := 20
			if kind == poolAlone || kind == wholePath {
				budget = tenantBudget // a tenant's share is a quarter
			}
			t, err := e.service(b, kind, 1, budget)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			c.Rows = append(c.Rows, Row{"one tenant", kind, func() ([]float64, error) {
				return queryRound(b, t)
			}})
		}
		return c, nil
	},
}

// queryColumns are what queryRound measures.
var queryColumns = []Column{{Name: "requests/s", Format: integer, Ratio: true},
	{Name: "p50", Format: nanoseconds},
	{Name: "p99", Format: nanoseconds}, {Name: "CPU", Format: nanoseconds},
	{Name: "errors", Format: integer, Worst: true}}

// queryRound loads a target for one round, after a short time that isn't counted.
func queryRound(b *Bench, t *target) ([]float64, error) {
	trace := make([]int, traceLength)
	if _, _, err := t.closedLoop(clients, trace, 0, b.scale.load/10); err != nil {
		return nil, err
	}
	before, err := t.server.cpuTime()
	if err != nil {
		return nil, err
	}
	shots, took, err := t.closedLoop(clients, trace, 0, b.scale.load)
	if err != nil {
		return nil, err
	}
	after, err := t.server.cpuTime()
	n := float64(len(shots)) - wrongs(shots)
	return []float64{n / took.Seconds(), latency(shots, 0.5, everyone), latency(shots, 0.99, everyone),
		float64(after-before) / n, wrongs(shots)}, err
}

var sqliteScenario = Scenario{
	Name:  "sqlite",
	Title: "The same on SQLite",
	About: `One tenant in a SQLite file. Each request is a point query, through ReadDB behind the whole
middleware, and through one *sql.DB that the handler keeps open with the same journal mode. 32 clients.
Target: ≥ 0.95.`,
	Open: openSQLite,
}

func openSQLite(b *Bench) (*Comparison, error) {
	bareFile, err := fillFile(b)
	if err != nil {
		return nil, err
	}
	wholeFile, err := fillFile(b)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Bases: []string{oneFile}, Columns: queryColumns}
	what := servedBy{Kind: wholeOnFile}
	token, err := enroll(b, &what, []string{"sqlite:" + wholeFile})
	if err != nil {
		return nil, err
	}
	answers := [][]byte{[]byte(fileTenant)}
	bare := &target{requests: [][]byte{wireRequest(tenantIndex, strconv.Itoa(0))}, answers: answers}
	if bare.server, err = startChild(b, servedBy{Kind: oneFile, Dir: bareFile}); err != nil {
		return nil, err
	}
	whole := &target{requests: [][]byte{wireRequest("Authorization", "Bearer "+token, tenantHeader, slug(0))},
		answers: answers}
	if whole.server, err = startChild(b, what); err != nil {
		return nil, err
	}
	c.Rows = []Row{
		{"one tenant", oneFile, func() ([]float64, error) { return queryRound(b, bare) }},
		{"one tenant", ours, func() ([]float64, error) { return queryRound(b, whole) }},
	}
	return c, nil
}

// fileTenant is the name of the one tenant's file.
const fileTenant = "0123456789abcdef0123456789abcdef.db"

// fillFile makes a tenant's file, in a folder of its own, as tenantdb's pool makes it, and returns its path.
func fillFile(b *Bench) (path string, err error) {
	dir, err := b.folder()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, fileTenant)
	// a tenant's file is created before its first lease
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: dir})
	if err != nil {
		return "", err
	}
	defer func() { _ = pool.Close(b.ctx) }()
	lease, err := pool.Lease(catalogOf("sqlite:" + path))
	if err != nil {
		return "", err
	}
	defer lease.Release()
	for _, text := range []string{
		"CREATE TABLE notes (id INTEGER PRIMARY KEY, name TEXT NOT NULL, body TEXT NOT NULL)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO notes " +
			"SELECT i, '" + fileTenant + "', 'note ' || i FROM n"} {
		if _, err := lease.DB().ExecContext(b.ctx, text); err != nil {
			return "", err
		}
	}
	return path, nil
}
