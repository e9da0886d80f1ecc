package tenantdb

import (
	"context"
	"slices"
	"strings"
)

// SQLite asks the guard about each table and column while a statement is compiled, which costs more than the
// rest of a point query. So a connection keeps its last statements compiled. Where the schema or a setting
// has changed SQLite compiles them again, and asks again.

const (
	maxKept     = 8    // statements of a connection
	maxKeptText = 4096 // bytes of a statement that is kept
)

// keptStatement is a compiled statement that nobody is running.
type keptStatement struct {
	sqliteStatement
	text  string
	plain bool // it does no more than read or change rows: it may be kept
	wrote bool // it may change rows
}

// compile returns a statement for one use, which ends with putBack.
func (c *fileConn) compile(ctx context.Context, text string) (*keptStatement, error) {
	g := &c.guard
	for i, s := range c.kept {
		if s.text == text {
			c.kept = slices.Delete(c.kept, i, i+1)
			g.wrote = g.wrote || s.wrote
			return s, nil
		}
	}
	wrote := g.wrote
	g.wrote, g.special = false, false
	stmt, err := c.PrepareContext(ctx, text)
	s := &keptStatement{text: text, wrote: g.wrote, plain: !g.special && isSingle(text)}
	g.wrote = g.wrote || wrote
	if err != nil {
		return nil, err
	}
	s.sqliteStatement = stmt.(sqliteStatement)
	return s, nil
}

// isSingle reports whether a text is short, and surely one statement: what follows a semicolon isn't compiled
// before it runs.
func isSingle(text string) bool {
	end := strings.IndexByte(text, ';')
	return len(text) <= maxKeptText && (end < 0 || end == len(text)-1)
}

// putBack ends a use of a statement, which is kept if that went well and it may be.
func (c *fileConn) putBack(s *keptStatement, err error) error {
	if err != nil || !s.plain || c.guard.changed || c.guard.session {
		return s.Close()
	}
	c.kept = append(c.kept, s)
	if len(c.kept) <= maxKept {
		return nil
	}
	oldest := c.kept[0]
	c.kept = slices.Delete(c.kept, 0, 1)
	return oldest.Close()
}

// forget closes the statements that are kept. An unclosed one would keep the connection open.
func (c *fileConn) forget() {
	for _, s := range c.kept {
		_ = s.Close()
	}
	c.kept = nil
}
