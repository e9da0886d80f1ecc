package sqlitedb

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// guard is the authorizer of a connection. The driver shows it every action of a statement that is compiled,
// whatever the spelling. The guard refuses actions that would leave the tenant's file or outlive the
// connection. It notes those that last as long as the connection. Whoever uses the connection holds
// borrowed.mu.
type guard struct {
	session bool   // the connection is a session's, and closes with it
	text    string // what is compiled
	own     bool   // database/sql begins or ends its transaction
	refused error  // why a statement was refused

	changed bool // the connection may differ from a new one
	began   bool // a transaction may be open that database/sql doesn't know of
	wrote   bool // a statement may have written
	special bool // a statement may have done more than read or change rows
}

// Reasons for which a statement is refused.
var (
	errAttach = errors.New("ATTACH is refused: a connection is confined to its tenant's file")
	errVacuum = errors.New("VACUUM is refused here, as it attaches a file: call Lease.Vacuum, " +
		"or have it alone in a migration")
	errReader = errors.New("ReadDB only reads: write with DB")
	errPragma = errors.New("this PRAGMA is refused: what it sets would outlive the connection, " +
		"or keep others of the tenant out")
)

// vacuumWord finds VACUUM in a statement that may be meant to be one.
var vacuumWord = regexp.MustCompile(`(?i)\bvacuum\b`)

// plainVacuum matches a text that is nothing but VACUUM. It writes only a temporary file of its own.
var plainVacuum = regexp.MustCompile(`(?i)^(\s|--[^\n]*\n)*vacuum\s*;?\s*$`)

// plainPragmas change nothing of the connection, whatever their argument (sqlite.org/pragma.html).
var plainPragmas = []string{"application_id", "collation_list", "compile_options", "data_version",
	"database_list", "foreign_key_check", "foreign_key_list", "freelist_count", "function_list",
	"incremental_vacuum", "index_info", "index_list", "index_xinfo", "integrity_check", "module_list",
	"page_count", "pragma_list", "quick_check", "stats", "table_info", "table_list", "table_xinfo",
	"user_version", "wal_checkpoint"}

// processPragmas change the whole process, or name files.
var processPragmas = []string{"data_store_directory", "hard_heap_limit", "lock_proxy_file", "soft_heap_limit",
	"temp_store_directory"}

// authorize is the authorizer (sqlite.org/c3ref/set_authorizer.html). SQLite gives an empty argument for an
// expression.
func (g *guard) authorize(action sqlite.AuthorizerActionCode, arg1, arg2, database, _ string,
) sqlite.AuthorizerReturnCode {
	switch action {
	case sqlite.AuthSelect, sqlite.AuthRead, sqlite.AuthFunction, sqlite.AuthRecursive:
		return sqlite.AuthorizerOK
	case sqlite.AuthInsert, sqlite.AuthUpdate, sqlite.AuthDelete:
	default:
		g.special = true
	}
	switch action {
	case sqlite.AuthAttach, sqlite.AuthDetach:
		return g.attach()
	case sqlite.AuthPragma:
		return g.pragma(strings.ToLower(arg1), arg2)
	case sqlite.AuthTransaction, sqlite.AuthSavepoint:
		g.began = g.began || !g.own
		return sqlite.AuthorizerOK
	}
	g.wrote = true
	g.changed = g.changed || database == "temp" // a statement that makes a temporary object writes there
	return sqlite.AuthorizerOK
}

// attach decides about ATTACH and DETACH, which are also parts of VACUUM.
func (g *guard) attach() sqlite.AuthorizerReturnCode {
	switch {
	case g.session && plainVacuum.MatchString(g.text):
		return sqlite.AuthorizerOK
	case vacuumWord.MatchString(g.text):
		g.refused = errVacuum
	default:
		g.refused = errAttach
	}
	return sqlite.AuthorizerDeny
}

// pragma decides about a PRAGMA. The statement's text says whether there is an argument, since an argument
// may be empty.
func (g *guard) pragma(name, argument string) sqlite.AuthorizerReturnCode {
	switch {
	case argument == "" && !strings.ContainsAny(g.text, "=("):
		return sqlite.AuthorizerOK
	case slices.Contains(processPragmas, name), !g.session && locksOut(name, argument):
		g.refused = errPragma
		return sqlite.AuthorizerDeny
	}
	g.wrote = true
	g.changed = g.changed || !slices.Contains(plainPragmas, name)
	return sqlite.AuthorizerOK
}

// locksOut reports whether a PRAGMA with an argument keeps others of the tenant from reading while one
// writes. SQLite takes the empty journal mode for DELETE.
func locksOut(name, argument string) bool {
	return name == "journal_mode" && !strings.EqualFold(argument, "wal") ||
		name == "locking_mode" && !strings.EqualFold(argument, "normal")
}

// explain adds the guard's reason to the error of a statement that it refused.
func (g *guard) explain(err error) error {
	refused := g.refused
	g.refused = nil
	if refused == nil || err == nil {
		return err
	}
	return &refusal.Misuse{Reason: refused, Err: err}
}
