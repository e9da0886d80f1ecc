package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The exit codes beside 0.
const (
	exitFailed  = 1 // nothing was done, or not all of it
	exitTenants = 2 // the command went through, and failed for some tenants
	exitPending = 3 // with --check: migrations are pending
)

// cli is the grammar of the command line.
type cli struct {
	globals
	Init         initCmd         `cmd:"" help:"Create the host database's tables, or upgrade them."`
	Doctor       doctorCmd       `cmd:"" help:"Check the host database, the catalog, every tenant's database and the sum of connections."`
	Hostdb       hostdbCmd       `cmd:"" help:"Say who may connect to the host database."`
	Dsn          dsnCmd          `cmd:"" help:"Print where a tenant's database is, with the password masked."`
	Tenant       tenantCmd       `cmd:"" help:"Create, list, close, rename and drop tenants."`
	User         userCmd         `cmd:"" help:"Create, list, change and delete users."`
	Member       memberCmd       `cmd:"" help:"Add, list, change and remove the members of tenants."`
	Plan         planCmd         `cmd:"" help:"Create, list and change pricing plans."`
	Subscription subscriptionCmd `cmd:"" help:"Create, list and change subscriptions."`
	Exec         execCmd         `cmd:"" help:"Run one SQL statement in the databases of one, several or all tenants."`
	Migrate      migrateCmd      `cmd:"" help:"Migrate the tenants' databases, and show which versions they have."`
	Jobs         jobsCmd         `cmd:"" help:"List, retry and cancel background jobs; finish interrupted tenants."`
	Webhooks     webhooksCmd     `cmd:"" help:"List and replay Stripe's webhook events."`
	Audit        auditCmd        `cmd:"" help:"Read the audit log."`
	Token        tokenCmd        `cmd:"" help:"Sign a JSON Web Token for development."`
	Completion   completionCmd   `cmd:"" help:"Print the script with which a shell completes this command."`
	Complete     completeCmd     `cmd:"" hidden:"" help:"Print what the last of some words may become."`
}

// globals are the flags of every command.
type globals struct {
	Version    kong.VersionFlag `help:"Print the version and exit."`
	Output     string           `short:"o" enum:"table,json" default:"table" help:"Print a table for people, or json for programs."`
	Host       string           `placeholder:"URL" help:"The host database, such as sqlite:host.db. A URL with a password is never an argument: set TENANTDB_HOST_URL, or DB_TYPE, DB_USER, DB_PASS, DB_HOST, DB_PORT and DB_NAME."`
	TenantsDir string           `env:"TENANTDB_TENANTS_DIR" default:"tenants" placeholder:"DIR" help:"The folder of the tenants' SQLite files."`
	MaxConns   int              `env:"TENANTDB_MAX_CONNS" default:"10" help:"How many connections this command may have to each server of tenants."`
	Actor      string           `env:"TENANTDB_ACTOR" default:"tenantdb" help:"The name under which the audit log records what this command does."`
}

const description = `The operator's tool for products with a database per tenant.

Exit codes: 0 all went well; 1 it failed; 2 it failed for some tenants; 3 migrations are pending (with --check).`

// run runs one command and returns the exit code.
func run(ctx context.Context, args []string, env environment) int {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var grammar cli
	helped := false // or the version was printed
	parser, err := newParser(&grammar, env, func(int) { helped = true })
	if err != nil {
		return report(env, err)
	}
	parsed, err := parser.Parse(args)
	if helped {
		return 0
	}
	if err != nil {
		return report(env, fmt.Errorf("%w; see tenantdb --help", err))
	}
	s := &session{env: env, flags: grammar.globals, given: givenFlags(parsed)}
	ctx = hostdb.WithActor(ctx, s.flags.Actor)
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.BindSingletonProvider(func() (*hostdb.DB, error) { return s.open(ctx) })
	if err == nil {
		err = parsed.Run(s)
	}
	return report(env, errors.Join(err, s.close()))
}

// newParser makes the parser. Variables of the environment stand in for flags that are not given.
func newParser(grammar *cli, env environment, exit func(int)) (*kong.Kong, error) {
	variables := func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, name := range flag.Envs {
			if value := env.getenv(name); value != "" {
				return value, nil
			}
		}
		return nil, nil
	}
	return kong.New(grammar, append(signedNumbers(), kong.Name("tenantdb"), kong.Description(description), kong.Vars{"version": version()},
		kong.Writers(env.stdout, env.stderr), kong.Exit(exit), kong.Resolvers(kong.ResolverFunc(variables)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 120}))...)
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	text string
}

// Error implements error.
func (e *exitError) Error() string { return e.text }

// report prints an error, if there is one, and returns the exit code.
func report(env environment, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(env.stderr, "tenantdb:", clean(strings.ReplaceAll(err.Error(), "\n", "; ")))
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}
