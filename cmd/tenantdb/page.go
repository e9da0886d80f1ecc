package main

import "github.com/tenantdb/tenantdb/hostdb"

// page selects a page of a list.
type page struct {
	Limit int    `default:"1000" help:"At most this many rows; 0 is all."`
	After string `placeholder:"ID" help:"Only rows after this id: the last one of the page before."`
}

// given returns the value of a flag, or "".
func given(flag *string) string {
	if flag == nil {
		return ""
	}
	return *flag
}

// filters returns the filters of the page and of the columns, which are given as names and values. Empty
// values are ignored.
func (p page) filters(columns ...string) []hostdb.Filter {
	filters := []hostdb.Filter{hostdb.After(p.After)}
	if p.Limit != 0 {
		filters = append(filters, hostdb.Limit(p.Limit))
	}
	for i := 0; i < len(columns); i += 2 {
		if columns[i+1] != "" {
			filters = append(filters, hostdb.Where(columns[i], columns[i+1]))
		}
	}
	return filters
}
