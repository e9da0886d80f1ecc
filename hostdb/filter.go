package hostdb

import (
	"fmt"
	"strings"
	"time"
)

const maxPage = 1000

// Filter narrows List and All. Make one with Where, After or Limit.
type Filter struct {
	column string // "" for After and Limit
	value  any
	after  *string
	limit  *int
}

// Where keeps the rows in which the column equals the value: a string, bool, int, int64 or time.Time, or nil
// for rows where it is absent. A column that isn't there, that holds a Secret, or a value of another type:
// ErrInvalid.
func Where(column string, value any) Filter {
	return Filter{column: column, value: value}
}

// After keeps the rows whose id is greater, which is how the next page begins.
func After(id string) Filter {
	return Filter{after: &id}
}

// Limit keeps the first n rows. Several: the last counts. A negative n, and for List one above 1,000, is
// ErrInvalid: All pages through more.
func Limit(n int) Filter {
	return Filter{limit: &n}
}

// limitOf returns the limit that filters set, or -1. All pages by itself, so that a negative limit is left to
// List to refuse.
func limitOf(filters []Filter) int {
	for i := len(filters) - 1; i >= 0; i-- {
		if filters[i].limit != nil {
			return *filters[i].limit
		}
	}
	return -1
}

// condition turns filters into SQL.
func (t Table[M]) condition(filters []Filter, limit int) (string, []any, error) {
	var (
		terms []string
		args  []any
		after string
	)
	for _, f := range filters {
		switch {
		case f.limit != nil:
			if *f.limit < 0 {
				return "", nil, invalid("limit", "is negative")
			}
			limit = *f.limit
		case f.after != nil:
			if err := anyText.checkText("after", *f.after); err != nil {
				return "", nil, err
			}
			after = max(after, *f.after)
		default:
			arg, err := t.argument(f)
			if err != nil {
				return "", nil, err
			}
			if arg == nil {
				terms = append(terms, f.column+" IS NULL")
				continue
			}
			args = append(args, arg)
			terms = append(terms, fmt.Sprintf("%s = $%d", f.column, len(args)))
		}
	}
	if limit > maxPage {
		return "", nil, invalid("limit", "is above 1,000; page with After, or use All")
	}
	id := t.r.columns[0].name
	if after != "" {
		args = append(args, after)
		terms = append(terms, fmt.Sprintf("%s > $%d", id, len(args)))
	}
	where := ""
	if len(terms) > 0 {
		where = "WHERE " + strings.Join(terms, " AND ") + " "
	}
	return fmt.Sprintf("%sORDER BY %s LIMIT %d", where, id, limit), args, nil
}

// argument checks a filter's column and value, and returns the value as a parameter; nil stands for NULL.
func (t Table[M]) argument(f Filter) (any, error) {
	for i := range t.r.columns {
		if c := &t.r.columns[i]; c.name == f.column {
			return t.comparable(c.at(new(M)), f)
		}
	}
	return nil, invalid(f.column, "is not a column of "+t.r.table)
}

// comparable returns a filter's value as a parameter for a column whose field has this type.
func (t Table[M]) comparable(field any, f Filter) (any, error) {
	switch value := f.value.(type) {
	case nil:
		return nil, nil
	case string:
		if _, ok := field.(*string); ok {
			return nullIfEmpty(value), rule{maxBytes: maxJSON}.checkText(f.column, value)
		}
	case bool:
		if _, ok := field.(*bool); ok {
			return value, nil
		}
	case int:
		return t.comparable(field, Filter{column: f.column, value: int64(value)})
	case int64:
		switch field.(type) {
		case *int, *int64:
			return value, nil
		}
	case time.Time:
		switch field.(type) {
		case *time.Time, **time.Time:
			return t.s.db.engine.time(value), checkTime(f.column, value)
		}
	}
	return nil, invalid(f.column, fmt.Sprintf("can't be compared with a value of the type %T", f.value))
}
