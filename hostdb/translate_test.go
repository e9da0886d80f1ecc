package hostdb

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A caller that left meanwhile doesn't hide what the database answered.
func TestTranslate_keepsAnAnswerBesideTheContextsEnd(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithTimeout(t.Context(), 0)
	defer stop()
	taken := &pgconn.PgError{Code: "23505", ConstraintName: "core_users__email"}
	for _, c := range []struct {
		ctx       context.Context
		err       error
		want, not []error
	}{
		{over, taken, []error{context.Canceled, ErrConflict}, []error{ErrUnavailable}},
		{late, taken, []error{context.DeadlineExceeded, ErrUnavailable, ErrConflict}, nil},
		{t.Context(), taken, []error{ErrConflict}, []error{context.Canceled, ErrUnavailable}},
		{over, &pgconn.PgError{Code: "53100"}, []error{context.Canceled, ErrUnavailable}, nil},
		{over, &pgconn.PgError{Code: "57014"}, []error{context.Canceled}, []error{ErrUnavailable}},
		{t.Context(), &pgconn.PgError{Code: "57014"}, []error{ErrUnavailable}, []error{context.Canceled}},
		{over, context.Canceled, []error{context.Canceled}, []error{ErrUnavailable}},
		{over, errors.New("conn closed"), []error{context.Canceled}, []error{ErrUnavailable}},
		{over, contextError(over), []error{context.Canceled}, []error{ErrUnavailable}},
		{t.Context(), context.DeadlineExceeded, []error{ErrUnavailable, context.DeadlineExceeded}, nil},
	} {
		got := translate(c.ctx, c.err, asReported)
		for _, want := range c.want {
			if !errors.Is(got, want) {
				t.Errorf("%v became %v, which is no %v", c.err, got, want)
			}
		}
		for _, not := range c.not {
			if errors.Is(got, not) {
				t.Errorf("%v became %v, which is %v", c.err, got, not)
			}
		}
	}
}
