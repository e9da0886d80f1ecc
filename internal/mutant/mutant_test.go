package mutant

import (
	"strings"
	"testing"
)

const source = `package p

func (s *server[T]) shut(c *conn) {
	c.state = closing // from now on
	s.closing++
	if c.live == 0 && s.cap >= c.live {
		s.remove(c)
	}
	switch {
	case s.used > 1:
		s.used--
		s.remove(c)
	}
}

func shut() { s.closing++ }
`

func TestMutation_editsByFormNotByName(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"x.n++", "x.n--", "\ts.closing--\n\tif c.live"},
		{"x.n == 0", "true || x.n == 0", "if true || c.live == 0 && s.cap"},
		{"a.x>=b.y", "false", "&& false {"},
		{"y.used--\ny.drop(z)", "", "case s.used > 1:\n\t\t\n\t}"},
		{"a.state = b; t.count++", "t.count += 2", "{\n\ts.closing += 2\n\tif"},
		{"n > 1", "", ""},
	} {
		got, found, err := Mutation{Edits: []Edit{{"server.shut", c.old, c.new}}}.edit([]byte(source))
		if c.want == "" {
			if err == nil {
				t.Errorf("%s matches something", c.old)
			}
			continue
		}
		if err != nil || !found || !strings.Contains(string(got), c.want) ||
			!strings.HasSuffix(string(got), "shut() { s.closing++ }\n") {
			t.Errorf("%s: %v, %v\n%s", c.old, found, err, got)
		}
	}
}

func TestMutation_refusesWhatIsNotExact(t *testing.T) {
	for _, edits := range [][]Edit{
		{{"server.shut", "x.remove(y)", ""}},               // twice
		{{"server.shut", "x.remove(x)", ""}},               // one name for two
		{{"server.shut", "x.live == false", ""}},           // Go's names are their own
		{{"server.shut", "func {", ""}},                    // no Go
		{{"server.shut", "x.n++", ""}, {"open", "x", "y"}}, // no such function
	} {
		if got, _, err := (Mutation{Edits: edits}).edit([]byte(source)); err == nil {
			t.Errorf("%v made\n%s", edits, got)
		}
	}
	if _, found, err := (Mutation{Edits: []Edit{{"conn.shut", "x", "y"}}}).edit([]byte(source)); found ||
		err != nil {
		t.Errorf("conn.shut: %v, %v", found, err)
	}
}
