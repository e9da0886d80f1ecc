package hostdb

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Fault is a part of the schema that the library's promises rest on and that is missing, switched off or
// doesn't hold.
type Fault struct {
	Object  string // "trigger core_memberships_changed"
	Problem string // "is disabled"
	Fix     string // the statement that mends it, or what to do
}

// String says all of it in one sentence.
func (f Fault) String() string {
	return f.Object + " " + f.Problem + "; to mend it: " + f.Fix
}

// Verify checks what the library's promises rest on: that the triggers which feed Changes, keep audit rows
// and count owners are there and fire in every session, that keys and constraints are there and hold, and
// that the record of pruned changes makes sense. It returns what is wrong, nothing where all is well. A bulk
// load that left triggers disabled is the usual cause.
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

// verifyQuery is the query for what is wrong.
func (e engine) verifyQuery() string {
	if e == postgres {
		return verifyPostgres
	}
	return verifySQLite
}

// readFault appends the fault of a row.
func readFault(row scanner, to *[]Fault) error {
	var f Fault
	err := row.Scan(&f.Object, &f.Problem, &f.Fix)
	*to = append(*to, f)
	return err
}

// distrust is the error that stands for faults, nil for none.
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
	verified time.Time // zero: look at once
	err      error     // what the last look found
	flipped  bool      // it was another answer than the one before, and no poll has told so yet
}

// verifyIfDue verifies when it is time to; while something is wrong, at every poll.
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
		w.flipped = true // changes may have been missed before, or since
		w.db.report(ctx, faults)
	}
	return nil
}

// needsReset reports whether a poll is to be a Reset. After one, the next look is due: the tables may be
// others.
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
			"the host database's schema isn't as it has to be; access facts are kept for a "+
				"shorter time", slog.String("object", f.Object), slog.String("problem", f.Problem),
			slog.String("fix", f.Fix))
	}
}

// literals writes rows of texts as SQL literals, for a VALUES list. The words are the package's own.
func literals(rows ...[]string) string {
	lines := make([]string, len(rows))
	for i, row := range rows {
		lines[i] = "('" + strings.Join(row, "', '") + "')"
	}
	return strings.Join(lines, ", ")
}
