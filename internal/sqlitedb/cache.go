package sqlitedb

import (
	"context"
	"slices"
	"strings"
)

// SQLite asks the guard about each table and column while it compiles a statement. That costs more than the
// rest of a point query. So a connection keeps its last statements compiled. SQLite compiles them anew, and
// asks anew, after the schema or a setting has changed.

const (
	maxCached     = 8    // statements per connection
	maxCachedText = 4096 // bytes of a statement that may be cached
)

// compiled is a compiled statement.
type compiled struct {
	driverStmt
	text  string
	plain bool // it does no more than read or change rows, so it may be cached
	wrote bool // it may change rows
}

// compile returns a statement for one use. [fileConn.putBack] ends the use.
func (c *fileConn) compile(ctx context.Context, text string) (*compiled, error) {
	g := &c.guard
	for i, s := range c.cache {
		if s.text == text {
			c.cache = slices.Delete(c.cache, i, i+1)
			g.wrote = g.wrote || s.wrote
			return s, nil
		}
	}
	wrote := g.wrote
	g.wrote, g.special = false, false
	stmt, err := c.PrepareContext(ctx, text)
	s := &compiled{text: text, wrote: g.wrote, plain: !g.special && isSingle(text)}
	g.wrote = g.wrote || wrote
	if err != nil {
		return nil, err
	}
	s.driverStmt = stmt.(driverStmt)
	return s, nil
}

// isSingle reports whether a text is short and surely one statement. SQLite compiles what follows a semicolon
// only when it gets there.
func isSingle(text string) bool {
	end := strings.IndexByte(text, ';')
	return len(text) <= maxCachedText && (end < 0 || end == len(text)-1)
}

// putBack ends a use of a statement, which is cached if it may be and the use didn't fail. It returns the
// error of the use, or else that of closing a statement.
func (c *fileConn) putBack(s *compiled, err error) error {
	if err == nil && s.plain && !c.guard.changed && !c.guard.session {
		c.cache = append(c.cache, s)
		if len(c.cache) <= maxCached {
			return nil
		}
		s, c.cache = c.cache[0], slices.Delete(c.cache, 0, 1)
	}
	if closed := s.Close(); err == nil {
		err = closed
	}
	return err
}

// closeCached closes the cached statements. The driver keeps a connection open that has unclosed ones.
func (c *fileConn) closeCached() {
	for _, s := range c.cache {
		_ = s.Close()
	}
	c.cache = nil
}
