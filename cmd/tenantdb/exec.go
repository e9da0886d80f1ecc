package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// maxSQL bounds a statement, in bytes.
const maxSQL = 1 << 20

// execCmd is tenantdb exec.
type execCmd struct {
	SQL      string        `arg:"" optional:"" name:"sql" help:"${exec_sql}"`
	Tenant   []string      `short:"t" xor:"which" required:"" placeholder:"TENANT" help:"${exec_tenant}"`
	All      bool          `xor:"which" required:"" help:"In every tenant's database."`
	Write    bool          `help:"${exec_write}"`
	Rows     int           `default:"1000" help:"At most this many rows of each tenant."`
	Parallel int           `default:"4" help:"How many tenants at once."`
	Timeout  time.Duration `default:"1m" help:"How long it may take in each tenant."`
	confirmation
}

// Help is the long help.
func (*execCmd) Help() string {
	return `Without --write the statement runs in a read-only transaction (PostgreSQL) or on a read-only
connection (SQLite), and the database refuses writes. A PostgreSQL superuser can still do what isn't a
write to a table, such as COPY … TO PROGRAM, so give tenants their own roles. With --write, PostgreSQL
runs the statement as its own transaction. --write --all asks you to type "all", unless --yes is given.`
}

// Run runs the command.
func (c *execCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	statement, err := c.statement(s)
	if err != nil {
		return err
	}
	if c.Parallel < 1 || c.Rows < 0 || c.Timeout <= 0 {
		return errors.New("--parallel and --timeout must be positive, and --rows can't be negative")
	}
	named, err := findTenants(ctx, host, c.Tenant) // all, before the statement runs in one
	if err != nil {
		return err
	}
	if c.Write && c.All {
		what := "This lets the statement write in every tenant's database."
		if err := s.confirm(ctx, c.confirmation, "all", what); err != nil {
			return err
		}
	}
	pool, err := s.openPool()
	if err != nil {
		return err
	}
	one := &executor{host: host, pool: pool, actor: s.flags.Actor, statement: statement, write: c.Write,
		rows: c.Rows}
	printer := newExecPrinter(s, len(c.Tenant) == 1)
	if err := c.each(ctx, c.tenants(ctx, host, named), one, printer.print); err != nil {
		return errors.Join(err, printer.close())
	}
	return printer.close()
}

// statement returns the SQL, from the argument or standard input.
func (c *execCmd) statement(s *session) (string, error) {
	statement := c.SQL
	if statement == "" || statement == "-" {
		text, err := io.ReadAll(io.LimitReader(s.env.stdin, maxSQL+1))
		if err != nil {
			return "", fmt.Errorf("standard input: %w", err)
		}
		statement = string(text)
	}
	switch {
	case len(statement) > maxSQL:
		return "", errors.New("the statement is longer than 1 MiB")
	case strings.TrimSpace(statement) == "":
		return "", errors.New("give a statement, as an argument or on standard input")
	}
	return statement, nil
}

// tenantSeq is a sequence of tenants that ends after an error.
type tenantSeq = iter.Seq2[*hostdb.TenantCatalog, error]

// tenants returns the named tenants, or all that have a database.
func (c *execCmd) tenants(ctx context.Context, host *hostdb.DB, named []hostdb.TenantCatalog) tenantSeq {
	if c.All {
		return withDatabase(host.Tenants.All(ctx))
	}
	return each(named)
}

// withDatabase leaves out tenants that are being provisioned or were dropped.
func withDatabase(tenants tenantSeq) tenantSeq {
	return func(yield func(*hostdb.TenantCatalog, error) bool) {
		without := []string{hostdb.TenantProvisioning, hostdb.TenantDropped}
		for tenant, err := range tenants {
			if err == nil && slices.Contains(without, tenant.Status) {
				continue
			}
			if !yield(tenant, err) {
				return
			}
		}
	}
}

// each runs the statement in the tenants' databases, several at once, and prints one result at a time. When
// ctx ends or print fails, it begins no further tenant.
func (c *execCmd) each(ctx context.Context, tenants tenantSeq, one *executor,
	print func(*execResult) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var printing sync.Mutex
	var running sync.WaitGroup
	slots := make(chan struct{}, c.Parallel)
	for tenant, err := range tenants {
		if err != nil {
			cancel(err)
			break
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-slots }()
			limited, stop := context.WithTimeout(ctx, c.Timeout)
			defer stop()
			result := one.run(limited, tenant)
			printing.Lock()
			defer printing.Unlock()
			if err := print(result); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
