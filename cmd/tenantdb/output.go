package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// column is one value of a row. It is a key in JSON, and a line when a single row is printed. If it is
// listed, it is a column of a table.
type column[M any] struct {
	name   string
	value  func(*M) any
	listed bool
}

// blockRows is how many rows of a table are aligned together. It bounds the memory.
const blockRows = 1000

// printList prints rows as they come.
func printList[M any](s *session, columns []column[M], rows iter.Seq2[*M, error]) error {
	out := bufio.NewWriter(s.env.stdout)
	var err error
	if s.flags.Output == "json" {
		err = printArray(out, columns, rows)
	} else {
		err = printTable(out, columns, rows)
	}
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	return err
}

// printTable prints rows under a heading.
func printTable[M any](out io.Writer, columns []column[M], rows iter.Seq2[*M, error]) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var cells []string
	for _, c := range columns {
		if c.listed {
			cells = append(cells, strings.ToUpper(c.name))
		}
	}
	fmt.Fprintln(table, strings.Join(cells, "\t"))
	n := 0
	for row, err := range rows {
		if err != nil {
			_ = table.Flush()
			return err
		}
		cells = cells[:0]
		for _, c := range columns {
			if c.listed {
				cells = append(cells, cell(c.value(row)))
			}
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
		if n++; n%blockRows == 0 {
			_ = table.Flush()
		}
	}
	return table.Flush()
}

// printArray prints rows as a JSON array, a line for each.
func printArray[M any](out io.Writer, columns []column[M], rows iter.Seq2[*M, error]) error {
	separator := "["
	for row, err := range rows {
		if err != nil {
			return err
		}
		text, err := object(columns, row)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\n  %s", separator, text)
		separator = ","
	}
	if separator == "[" {
		_, err := io.WriteString(out, "[]\n")
		return err
	}
	_, err := io.WriteString(out, "\n]\n")
	return err
}

// printOne prints one row with all its columns.
func printOne[M any](s *session, columns []column[M], row *M) error {
	if s.flags.Output == "json" {
		text, err := object(columns, row)
		if err == nil {
			_, err = fmt.Fprintf(s.env.stdout, "%s\n", text)
		}
		return err
	}
	table := tabwriter.NewWriter(s.env.stdout, 0, 0, 2, ' ', 0)
	for _, c := range columns {
		fmt.Fprintf(table, "%s\t%s\n", c.name, cell(c.value(row)))
	}
	return table.Flush()
}

// object returns a row as a JSON object, with keys in the columns' order.
func object[M any](columns []column[M], row *M) ([]byte, error) {
	text := []byte{'{'}
	for i, c := range columns {
		if i > 0 {
			text = append(text, ", "...)
		}
		key, _ := json.Marshal(c.name) // a string never fails
		value, err := json.Marshal(c.value(row))
		if err != nil {
			return nil, err
		}
		text = append(append(append(text, key...), ": "...), value...)
	}
	return append(text, '}'), nil
}

// cell formats a value for a table.
func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return clean(v)
	case json.RawMessage:
		return clean(string(v))
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case *time.Time:
		if v == nil {
			return ""
		}
		return cell(*v)
	case []string:
		return clean(strings.Join(v, ","))
	}
	return clean(fmt.Sprint(value))
}

// clean escapes characters that could control a terminal or break a table: names and errors come from
// outside.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}

// each iterates over the rows of a slice.
func each[M any](rows []M) iter.Seq2[*M, error] {
	return func(yield func(*M, error) bool) {
		for i := range rows {
			if !yield(&rows[i], nil) {
				return
			}
		}
	}
}
