package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The exit codes of failures.
const (
	exitFailed  = 1 // the command failed
	exitTenants = 2 // the command failed for some tenants
	exitPending = 3 // with --check: migrations are pending
)

// cli is the grammar of the command line.
type cli struct {
	globals
	Init         initCmd         `cmd:"" help:"Create the host database's tables, or upgrade them."`
	Doctor       doctorCmd       `cmd:"" help:"${doctor}"`
	Hostdb       hostdbCmd       `cmd:"" help:"Control who may connect to the host database."`
	Dsn          dsnCmd          `cmd:"" help:"Print where a tenant's database is, with the password masked."`
	Tenant       tenantCmd       `cmd:"" help:"Create, list, close, rename and drop tenants."`
	User         userCmd         `cmd:"" help:"Create, list, change and delete users."`
	Member       memberCmd       `cmd:"" help:"Add, list, change and remove the members of tenants."`
	Plan         planCmd         `cmd:"" help:"Create, list and change pricing plans."`
	Subscription subscriptionCmd `cmd:"" help:"Create, list and change subscriptions."`
	Exec         execCmd         `cmd:"" help:"Run one SQL statement in tenants' databases."`
	Migrate      migrateCmd      `cmd:"" help:"Migrate the tenants' databases and show their versions."`
	Jobs         jobsCmd         `cmd:"" help:"List, retry, cancel and run background jobs."`
	Webhooks     webhooksCmd     `cmd:"" help:"List and replay Stripe's webhook events."`
	Audit        auditCmd        `cmd:"" help:"Read the audit log."`
	Token        tokenCmd        `cmd:"" help:"Sign a JSON Web Token for development."`
	Completion   completionCmd   `cmd:"" help:"Print a shell's completion script."`
	Complete     completeCmd     `cmd:"" hidden:"" help:"Print the completions of a command line."`
}

// globals are the flags of every command.
type globals struct {
	Version    kong.VersionFlag `help:"Print the version and exit."`
	Output     string           `short:"o" enum:"table,json" default:"table" help:"${output}"`
	Host       string           `placeholder:"URL" help:"${host}"`
	TenantsDir string           `env:"TENANTDB_TENANTS_DIR" default:"tenants" help:"${tenants_dir}"`
	MaxConns   int              `env:"TENANTDB_MAX_CONNS" default:"10" help:"${max_conns}"`
	Actor      string           `env:"TENANTDB_ACTOR" default:"tenantdb" help:"${actor}"`
}

const description = `The operator's tool for products with a database per tenant.

Exit codes: 0 success; 1 failure; 2 failure for some tenants; 3 migrations are pending (with --check).`

// run runs one command and returns the exit code.
func run(ctx context.Context, args []string, env environment) int {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var grammar cli
	helped := false // the help or the version was printed
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

// newParser makes the parser. Environment variables replace flags that aren't given.
func newParser(grammar *cli, env environment, exit func(int)) (*kong.Kong, error) {
	variables := func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, name := range flag.Envs {
			if value := env.getenv(name); value != "" {
				return value, nil
			}
		}
		return nil, nil
	}
	help := kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 120}
	return kong.New(grammar, append(signedNumbers(), kong.Name("tenantdb"), kong.Description(description),
		kong.Vars{"version": version()}, kong.PostBuild(expandTexts),
		kong.Writers(env.stdout, env.stderr), kong.Exit(exit),
		kong.Resolvers(kong.ResolverFunc(variables)), kong.ConfigureHelp(help))...)
}

// exitError is an error with its own exit code.
type exitError struct {
	code int
	text string
}

// Error implements error.
func (e *exitError) Error() string { return e.text }

// report prints an error, if any, and returns the exit code.
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
