package hostdb

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Fault is a part of the schema that the library depends on and that is missing, disabled or not enforced.
type Fault struct {
	Object  string // "trigger core_memberships_changed"
	Problem string // "is disabled"
	Fix     string // the statement that repairs it, or what to do
}

// String returns the fault as one sentence.
func (f Fault) String() string {
	return f.Object + " " + f.Problem + "; to fix it: " + f.Fix
}

// Verify checks what the library depends on. The triggers that feed [DB.Changes], protect audit rows and
// count owners must exist and fire in every session. Keys and constraints must exist and be enforced. The
// record of pruned changes must be plausible. It returns the faults, none if all is well. The usual cause is
// a bulk load that left triggers disabled.
//
// Open verifies too, and so does the loop behind Changes, every Config.VerifyInterval. Errors:
// ErrUnavailable.
func (db *DB) Verify(ctx context.Context) ([]Fault, error) {
	s := session{db: db}
	on, err := s.reader()
	if err != nil {
		return nil, err
	}
	var faults []Fault
	err = s.queryRows(ctx, on, db.engine.verifyQuery(), nil, func(row scanner) error {
		return readFault(row, &faults)
	})
	if err != nil {
		return nil, err
	}
	return faults, nil
}

// verifyQuery returns the query for faults.
func (e engine) verifyQuery() string {
	if e == postgres {
		return verifyPostgres
	}
	return verifySQLite
}

// readFault scans a fault and appends it.
func readFault(row scanner, to *[]Fault) error {
	var f Fault
	err := row.Scan(&f.Object, &f.Problem, &f.Fix)
	*to = append(*to, f)
	return err
}

// faultError returns the error that reports faults, nil for none.
func faultError(faults []Fault) error {
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return &failure{kind: ErrUnavailable, text: "changes may be missed: " + faults[0].String()}
	}
	return &failure{kind: ErrUnavailable,
		text: fmt.Sprintf("changes may be missed: %s; Verify and tenantdb doctor name %d more", faults[0],
			len(faults)-1)}
}

// verifier verifies for the loop behind Changes.
type verifier struct {
	db       *DB
	verified time.Time // zero: verify at once
	err      error     // reports the faults that were found last
	flipped  bool      // faults appeared or were repaired, and no poll has reported it yet
}

// verifyIfDue verifies if the interval is over, and at every poll while there are faults.
func (w *verifier) verifyIfDue(ctx context.Context, at cursor, now time.Time) error {
	if w.err == nil && !w.verified.IsZero() && now.Sub(w.verified) < w.db.config.VerifyInterval {
		return nil
	}
	faults, err := at.verify(ctx)
	if err != nil {
		return err
	}
	before := w.err
	w.verified, w.err = now, faultError(faults)
	if (before == nil) != (w.err == nil) {
		w.flipped = true // changes may have been missed
		w.db.report(ctx, faults)
	}
	return nil
}

// needsReset reports whether a poll must be a Reset. After one, verifying is due at once, because the tables
// may be others.
func (w *verifier) needsReset(reset bool) bool {
	if reset {
		w.verified = time.Time{}
	}
	reset = reset || w.flipped
	w.flipped = false
	return reset
}

// report logs faults.
func (db *DB) report(ctx context.Context, faults []Fault) {
	for _, f := range faults {
		db.config.Logger.LogAttrs(ctx, slog.LevelError,
			"the host database's schema has a fault; access facts are cached for a "+
				"shorter time", slog.String("object", f.Object), slog.String("problem", f.Problem),
			slog.String("fix", f.Fix))
	}
}

// literals returns rows of texts as SQL literals for a VALUES list. The texts are constants of this package.
func literals(rows ...[]string) string {
	lines := make([]string, len(rows))
	for i, row := range rows {
		lines[i] = "('" + strings.Join(row, "', '") + "')"
	}
	return strings.Join(lines, ", ")
}
