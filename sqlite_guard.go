package tenantdb

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"modernc.org/sqlite"
)

// sqliteGuard is the authorizer of a SQLite connection: the driver shows it every action of a statement that
// is compiled, whatever its spelling. It refuses what would leave the tenant's file or last beyond the
// connection, and notes what would last on the connection. The connection's user holds the loan's mutex.
type sqliteGuard struct {
	session bool   // the connection is a Lease.Session's, and closes with it
	text    string // what is compiled
	own     bool   // database/sql begins or ends its transaction
	refused error  // why a statement was refused

	changed bool // the session may differ from a new connection's
	began   bool // a transaction may be open that database/sql doesn't know of
	wrote   bool // a statement may have written
	special bool // a statement may have done more than read or change rows
}

// Reasons for which a statement is refused.
var (
	errAttach = errors.New("ATTACH is refused: a connection is confined to its tenant's file")
	errVacuum = errors.New("VACUUM is refused here, as it attaches a file: call Lease.Vacuum, or have it alone in a migration")
	errReader = errors.New("ReadDB only reads: write with DB")
	errPragma = errors.New("this PRAGMA is refused: what it sets would outlive the connection, or keep others of the tenant out")
)

// errConfined reports that a statement isn't for its connection: the program is at fault, not the database.
type errConfined struct{ reason, err error }

func (e *errConfined) Error() string   { return "tenantdb: " + e.reason.Error() }
func (e *errConfined) Unwrap() []error { return []error{e.reason, e.err} }

// vacuumWord finds VACUUM where a statement may be meant to be one.
var vacuumWord = regexp.MustCompile(`(?i)\bvacuum\b`)

// plainVacuum is a text that is nothing but VACUUM, which writes to no file but a temporary one of its own.
var plainVacuum = regexp.MustCompile(`(?i)^(\s|--[^\n]*\n)*vacuum\s*;?\s*$`)

// plainPragmas change nothing of the session, whatever their argument (sqlite.org/pragma.html).
var plainPragmas = []string{"application_id", "collation_list", "compile_options", "data_version", "database_list", "foreign_key_check",
	"foreign_key_list", "freelist_count", "function_list", "incremental_vacuum", "index_info", "index_list", "index_xinfo", "integrity_check",
	"module_list", "page_count", "pragma_list", "quick_check", "stats", "table_info", "table_list", "table_xinfo", "user_version", "wal_checkpoint"}

// processPragmas are about the whole process, or name files.
var processPragmas = []string{"data_store_directory", "hard_heap_limit", "lock_proxy_file", "soft_heap_limit", "temp_store_directory"}

// authorize is the authorizer (sqlite.org/c3ref/set_authorizer.html). An argument that is an expression
// arrives empty.
func (g *sqliteGuard) authorize(action sqlite.AuthorizerActionCode, arg1, arg2, database, _ string) sqlite.AuthorizerReturnCode {
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
	g.changed = g.changed || database == "temp" // whatever makes a temporary object writes to that schema
	return sqlite.AuthorizerOK
}

// attach decides about ATTACH and DETACH, which are also parts of VACUUM.
func (g *sqliteGuard) attach() sqlite.AuthorizerReturnCode {
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

// pragma decides about a PRAGMA. Whether it has an argument is seen in the text, since that may be empty:
// PRAGMA foreign_keys = ”.
func (g *sqliteGuard) pragma(name, argument string) sqlite.AuthorizerReturnCode {
	asks := argument == "" && !strings.ContainsAny(g.text, "=(")
	switch {
	case asks:
		return sqlite.AuthorizerOK
	case slices.Contains(processPragmas, name), !g.session && locksOut(name, argument):
		g.refused = errPragma
		return sqlite.AuthorizerDeny
	}
	g.wrote = true
	g.changed = g.changed || !slices.Contains(plainPragmas, name)
	return sqlite.AuthorizerOK
}

// locksOut reports whether a PRAGMA that sets something keeps others of the tenant from reading beside a
// writer. SQLite takes "" for the journal mode DELETE.
func locksOut(name, argument string) bool {
	switch name {
	case "journal_mode":
		return !strings.EqualFold(argument, "wal")
	case "locking_mode":
		return !strings.EqualFold(argument, "normal")
	}
	return false
}

// explain says why a statement was refused, where it was.
func (g *sqliteGuard) explain(err error) error {
	refused := g.refused
	g.refused = nil
	if refused == nil || err == nil {
		return err
	}
	return &errConfined{refused, err}
}
