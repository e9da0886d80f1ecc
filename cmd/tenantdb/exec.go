package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// maxSQL bounds a statement, in bytes.
const maxSQL = 1 << 20

// execCmd is tenantdb exec.
type execCmd struct {
	SQL      string        `arg:"" optional:"" name:"sql" help:"The statement. Without one, or with -, it is read from standard input, up to 1 MiB."`
	Tenant   []string      `short:"t" xor:"which" required:"" placeholder:"TENANT" help:"In this tenant's database (slug or id); may be repeated."`
	All      bool          `xor:"which" required:"" help:"In every tenant's database."`
	Write    bool          `help:"Let the statement write. The audit log records it for each tenant, without its text."`
	Rows     int           `default:"1000" help:"At most this many rows of each tenant."`
	Parallel int           `default:"4" help:"How many tenants at once."`
	Timeout  time.Duration `default:"1m" help:"How long it may take in each tenant."`
	confirmation
}

// Help is the long help.
func (*execCmd) Help() string {
	return `Without --write the statement runs in a read-only transaction (PostgreSQL) or on a read-only connection (SQLite): the database refuses
to write. What a PostgreSQL superuser can do without writing tables, such as COPY … TO PROGRAM, it can do here too: give tenants a role of
their own. With --write and PostgreSQL the statement is a transaction of its own. --write --all wants "all" typed, or --yes.`
}

// Run runs the command.
func (c *execCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	statement, err := c.statement(s)
	if err != nil {
		return err
	}
	if c.Parallel < 1 || c.Rows < 0 || c.Timeout <= 0 {
		return errors.New("--parallel, --rows and --timeout can't be negative, nor --parallel and --timeout 0")
	}
	named, err := findTenants(ctx, host, c.Tenant) // all of them, before the statement touches one
	if err != nil {
		return err
	}
	if c.Write && c.All {
		if err := s.confirm(ctx, c.confirmation, "all", "This lets the statement write in every tenant's database."); err != nil {
			return err
		}
	}
	pool, err := s.openPool()
	if err != nil {
		return err
	}
	one := &executor{host: host, pool: pool, actor: s.flags.Actor, statement: statement, write: c.Write, rows: c.Rows}
	printer := newExecPrinter(s, len(c.Tenant) == 1)
	if err := c.each(ctx, c.tenants(ctx, host, named), one, printer.print); err != nil {
		return errors.Join(err, printer.close())
	}
	return printer.close()
}

// statement is the SQL, from the argument or from standard input.
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

// tenants are those that were named, or all that have a database.
func (c *execCmd) tenants(ctx context.Context, host *hostdb.DB, named []hostdb.TenantCatalog) iter.Seq2[*hostdb.TenantCatalog, error] {
	if c.All {
		return withDatabase(host.Tenants.All(ctx))
	}
	return each(named)
}

// withDatabase leaves out the tenants that have no database yet, or no more.
func withDatabase(tenants iter.Seq2[*hostdb.TenantCatalog, error]) iter.Seq2[*hostdb.TenantCatalog, error] {
	return func(yield func(*hostdb.TenantCatalog, error) bool) {
		for tenant, err := range tenants {
			if err == nil && (tenant.Status == hostdb.TenantProvisioning || tenant.Status == hostdb.TenantDropped) {
				continue
			}
			if !yield(tenant, err) {
				return
			}
		}
	}
}

// each runs the statement in the tenants, several at once, and hands the results over one at a time. It
// begins no more once ctx has ended, or a result can't be printed.
func (c *execCmd) each(ctx context.Context, tenants iter.Seq2[*hostdb.TenantCatalog, error], one *executor, print func(*execResult) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var printing sync.Mutex
	var running sync.WaitGroup
	places := make(chan struct{}, c.Parallel)
	for tenant, err := range tenants {
		if err != nil {
			cancel(err)
			break
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-places }()
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
