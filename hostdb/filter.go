package hostdb

import (
	"fmt"
	"strings"
	"time"
)

const maxPage = 1000

// Filter narrows [Table.List] and [Table.All]. [Where], [After] and [Limit] return one.
type Filter struct {
	column string // "" for After and Limit
	value  any
	after  *string
	limit  *int
}

// Where selects the rows in which the column equals the value: a string, bool, int, int64 or time.Time, or
// nil for rows in which it is NULL. List and All fail with ErrInvalid if there is no such column, if it
// holds a Secret, or if the value has another type.
func Where(column string, value any) Filter {
	return Filter{column: column, value: value}
}

// After selects the rows with a greater id. It begins the next page.
func After(id string) Filter {
	return Filter{after: &id}
}

// Limit selects the first n rows. If there are several, the last one counts. A negative n, and for List one
// above 1,000, is ErrInvalid; All has no such bound.
func Limit(n int) Filter {
	return Filter{limit: &n}
}

// limitOf returns the limit that filters set, or -1. It leaves a negative limit to List, which refuses it.
func limitOf(filters []Filter) int {
	for i := len(filters) - 1; i >= 0; i-- {
		if filters[i].limit != nil {
			return *filters[i].limit
		}
	}
	return -1
}

// condition returns the filters as SQL.
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

// argument validates a filter's column and value, and returns the value as a parameter. nil stands for NULL.
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
