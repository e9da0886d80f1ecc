package hostdb

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// relation describes how a model is stored.
type relation[M any] struct {
	table      string
	subject    string      // names the model in audit events; "": changes write no audit row
	foreignKey string      // the column by which other tables refer to this one
	references []reference // this table's foreign keys
	// foreign keys of other tables that prevent deletion
	referrers []reference
	columns   []column[M] // the first is the id
	// unique keys in the order in which a conflict names them; columns of one are joined by commas
	unique      []string
	defaults    func(*M)        // sets the defaults of a new row
	check       func(*M) error  // refuses a model that can't be written; may be nil
	refuseWrite func(*M) error  // refuses every Update and Delete; may be nil
	batch       int             // page size of All; 0: maxPage
	owner       func(*M) string // whose the personal columns are: a user's id or Stripe's customer
}

// column ties a column to a field of the model.
type column[M any] struct {
	name string
	at   func(*M) any // returns the field's address
	rule rule
}

// reference is a foreign key: its column, and the table at its other end.
type reference struct{ column, table string }

// columnList lists the columns for a SELECT.
func (r *relation[M]) columnList() string {
	return r.columnsOf("")
}

// columnsOf lists the columns of an aliased table.
func (r *relation[M]) columnsOf(alias string) string {
	var b strings.Builder
	for i, c := range r.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		if alias != "" {
			b.WriteString(alias + ".")
		}
		b.WriteString(c.name)
	}
	return b.String()
}

// selectFrom returns the start of a query for whole rows.
func (r *relation[M]) selectFrom() string {
	return "SELECT " + r.columnList() + " FROM " + r.table
}

// insertText returns the INSERT statement.
func (r *relation[M]) insertText() string {
	places := make([]string, len(r.columns))
	for i := range places {
		places[i] = fmt.Sprintf("$%d", i+1)
	}
	return "INSERT INTO " + r.table + " (" + r.columnList() + ") VALUES (" + strings.Join(places, ", ") + ")"
}

// updateText returns the UPDATE statement by id that writes every column.
func (r *relation[M]) updateText() string {
	sets := make([]string, 0, len(r.columns)-1)
	for i, c := range r.columns[1:] {
		sets = append(sets, fmt.Sprintf("%s = $%d", c.name, i+2))
	}
	return "UPDATE " + r.table + " SET " + strings.Join(sets, ", ") + " WHERE " + r.columns[0].name + " = $1"
}

// values validates a model and returns its columns as parameters. It rounds times in the model as the
// database will.
func (r *relation[M]) values(e engine, m *M) ([]any, error) {
	if r.check != nil {
		if err := r.check(m); err != nil {
			return nil, err
		}
	}
	args := make([]any, len(r.columns))
	for i := range r.columns {
		c := &r.columns[i]
		arg, err := c.rule.encode(e, c.name, c.at(m))
		if err != nil {
			return nil, err
		}
		args[i] = arg
	}
	return args, nil
}

// id returns a model's id.
func (r *relation[M]) id(m *M) string {
	return *r.columns[0].at(m).(*string)
}

// checkID validates an id before it reaches a query.
func (r *relation[M]) checkID(id string) error {
	return r.columns[0].rule.checkText(r.columns[0].name, id)
}

// read scans a row of all columns.
func (r *relation[M]) read(row scanner) (*M, error) {
	m := new(M)
	return m, row.Scan(r.scanTargets(m, make([]any, 0, len(r.columns)))...)
}

// scanTargets appends the targets into which a row's columns are scanned.
func (r *relation[M]) scanTargets(m *M, to []any) []any {
	cells := make([]cell, len(r.columns))
	for i := range r.columns {
		cells[i].field = r.columns[i].at(m)
		to = append(to, &cells[i])
	}
	return to
}

// encode validates a field and returns it as a parameter.
func (r rule) encode(e engine, name string, field any) (any, error) {
	switch f := field.(type) {
	case *string:
		return nullIfEmpty(*f), r.checkText(name, *f)
	case *Secret:
		return nullIfEmpty(string(*f)), r.checkText(name, string(*f))
	case *bool:
		return *f, nil
	case *int:
		return r.nullIfZero(int64(*f)), r.checkNumber(name, int64(*f))
	case *int64:
		return r.nullIfZero(*f), r.checkNumber(name, *f)
	case *time.Time:
		*f = canonical(*f)
		return e.time(*f), checkTime(name, *f)
	case **time.Time:
		if *f == nil {
			return nil, nil
		}
		t := canonical(**f)
		*f = &t
		return e.time(t), checkTime(name, t)
	case *[]string:
		return r.list(name, *f)
	}
	panic(fmt.Sprintf("hostdb: column %s has the type %T", name, field))
}

// nullIfEmpty stores "" as NULL.
func nullIfEmpty(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// nullIfZero stores 0 as NULL if the rule says so.
func (r rule) nullIfZero(n int64) any {
	if r.zeroIsNull && n == 0 {
		return nil
	}
	return n
}

// list validates a list of texts and returns it as a JSON array. An empty list is NULL.
func (r rule) list(name string, items []string) (any, error) {
	if len(items) == 0 {
		return nil, nil
	}
	for _, item := range items {
		if err := (rule{maxBytes: maxShort, required: true}).checkText(name, item); err != nil {
			return nil, err
		}
	}
	encoded, err := json.Marshal(items)
	if err != nil {
		return nil, invalid(name, "is not a list of texts")
	}
	return string(encoded), r.checkText(name, string(encoded))
}

// cell scans a column into a field. NULL becomes the field's zero value.
type cell struct{ field any }

// Scan implements sql.Scanner.
func (c *cell) Scan(src any) error {
	if src == nil {
		return nil
	}
	switch f := c.field.(type) {
	case *string:
		return scanText(src, f)
	case *Secret:
		return f.Scan(src)
	case *bool:
		return scanBool(src, f)
	case *int:
		n, ok := src.(int64)
		*f = int(n)
		return checkScanned(ok, src)
	case *int64:
		n, ok := src.(int64)
		*f = n
		return checkScanned(ok, src)
	case *time.Time:
		return scanTime(src, f)
	case **time.Time:
		*f = new(time.Time)
		return scanTime(src, *f)
	case *[]string:
		return scanList(src, f)
	}
	return checkScanned(false, src)
}

func checkScanned(ok bool, src any) error {
	if !ok {
		return &failure{text: fmt.Sprintf("a column contains a %T, which its field can't hold", src)}
	}
	return nil
}

func scanText(src any, to *string) error {
	text, ok := src.(string)
	*to = text
	return checkScanned(ok, src)
}

func scanBool(src any, to *bool) error {
	switch v := src.(type) {
	case bool:
		*to = v
	case int64:
		*to = v != 0
	default:
		return checkScanned(false, src)
	}
	return nil
}

func scanList(src any, to *[]string) error {
	text, ok := src.(string)
	if !ok {
		return checkScanned(false, src)
	}
	if json.Unmarshal([]byte(text), to) != nil {
		return &failure{text: "a column doesn't contain a JSON array of texts"}
	}
	return nil
}

func scanTime(src any, to *time.Time) error {
	switch v := src.(type) {
	case time.Time:
		*to = canonical(v)
		return nil
	case string:
		t, err := time.Parse(timeLayout, v)
		if err != nil {
			return &failure{text: "a column contains a text that isn't a time"}
		}
		*to = t
		return nil
	}
	return checkScanned(false, src)
}
