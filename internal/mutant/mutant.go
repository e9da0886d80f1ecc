// Package mutant runs a package's tests against defects that are planted in it on purpose. A mutant exists in
// a copy of one source file only, which `go test -overlay` puts in the original's place: production code
// knows nothing of it.
package mutant

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Mutation is a defect: code that is replaced in the package of the running test.
type Mutation struct {
	// Name says what is wrong with the mutant.
	Name string
	// Edits make the mutant. They belong to functions of one file.
	Edits []Edit
}

// Edit replaces one piece of a function.
type Edit struct {
	// Func names a function, or a method by its receiver's type, as in "server.dial".
	Func string
	// Old is an expression or several statements that the function holds once. Formatting and names do not
	// matter: each name in Old stands for one name in the function, whatever that is.
	Old string
	// New takes the place of Old. A name that is in Old stands for the same name as there.
	New string
}

// Test runs `go test` with the mutation in place and returns what it prints and its error, which is nil if
// the tests did not notice the mutant. It fails t if the mutant cannot be made or does not compile.
func (m Mutation) Test(t *testing.T, args ...string) (string, error) {
	t.Helper()
	file, text, err := m.apply(".")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), filepath.Base(file))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: copied}})
	if err != nil {
		t.Fatal(err)
	}
	plan := copied + ".json"
	for name, content := range map[string][]byte{copied: text, plan: overlay} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// -vet=off: a mutant may look as wrong as it is.
	args = append([]string{"test", "-overlay=" + plan, "-vet=off"}, args...)
	out, err := exec.Command("go", args...).CombinedOutput()
	if strings.Contains(string(out), "[build failed]") {
		t.Fatalf("the mutant does not compile:\n%s", out)
	}
	return string(out), err
}

// apply returns the absolute name of the file that the mutation changes, and the text that takes its place.
func (m Mutation) apply(dir string) (file string, text []byte, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", nil, err
	}
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			return "", nil, err
		}
		changed, found, err := m.edit(source)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", name, err)
		}
		if found {
			name, err = filepath.Abs(name)
			return name, changed, err
		}
	}
	return "", nil, fmt.Errorf("no file has the function %s", m.Edits[0].Func)
}

// edit returns a file's text with all edits made; found is false if the file has none of the functions.
func (m Mutation) edit(source []byte) (changed []byte, found bool, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", source, parser.SkipObjectResolution)
	if err != nil {
		return nil, false, err
	}
	type span struct {
		start, end int
		text       string
	}
	var spans []span
	for i, e := range m.Edits {
		fn := function(file, e.Func)
		switch {
		case fn == nil && i == 0:
			return nil, false, nil
		case fn == nil:
			return nil, false, fmt.Errorf("no function %s", e.Func)
		}
		pattern, err := parse(e.Old)
		if err != nil {
			return nil, false, err
		}
		places := find(fn.Body, pattern)
		if len(places) != 1 {
			return nil, false, fmt.Errorf("%s has %d times, not once: %s", e.Func, len(places), e.Old)
		}
		p := places[0]
		spans = append(spans, span{fset.Position(p.start).Offset, fset.Position(p.end).Offset,
			p.names.rename(e.New)})
	}
	slices.SortFunc(spans, func(a, b span) int { return b.start - a.start })
	changed = source
	for _, s := range spans { // from the end of the file
		changed = slices.Concat(changed[:s.start], []byte(s.text), changed[s.end:])
	}
	return changed, true, nil
}

// function returns a function or method of a file, or nil.
func function(file *ast.File, name string) *ast.FuncDecl {
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		full := fn.Name.Name
		if fn.Recv != nil {
			full = receiver(fn.Recv.List[0].Type) + "." + full
		}
		if full == name {
			return fn
		}
	}
	return nil
}

// receiver returns the name of a receiver's type, without its pointer and type parameters.
func receiver(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	}
	return expr.(*ast.Ident).Name
}

// parse reads an expression, or statements.
func parse(text string) (any, error) {
	if expr, err := parser.ParseExpr(text); err == nil {
		return expr, nil
	}
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p; func f() {\n"+text+"\n}",
		parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	return file.Decls[0].(*ast.FuncDecl).Body.List, nil
}

// names maps the names of a pattern to those in the code that it matches.
type names map[string]string

// place is where a pattern matches.
type place struct {
	start, end token.Pos
	names      names
}

// find returns the places where a pattern matches in a function's body.
func find(body *ast.BlockStmt, pattern any) (places []place) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch p := pattern.(type) {
		case ast.Expr:
			bound := names{}
			if expr, ok := n.(ast.Expr); ok && bound.match(reflect.ValueOf(p), reflect.ValueOf(expr)) {
				places = append(places, place{n.Pos(), n.End(), bound})
			}
		case []ast.Stmt:
			list := statements(n)
			for i := 0; i+len(p) <= len(list); i++ {
				bound, part := names{}, list[i:i+len(p)]
				if bound.match(reflect.ValueOf(p), reflect.ValueOf(part)) {
					places = append(places, place{part[0].Pos(), part[len(part)-1].End(), bound})
				}
			}
		}
		return true
	})
	return places
}

// statements returns the statements directly under a node.
func statements(n ast.Node) []ast.Stmt {
	switch n := n.(type) {
	case *ast.BlockStmt:
		return n.List
	case *ast.CaseClause:
		return n.Body
	case *ast.CommClause:
		return n.Body
	}
	return nil
}

// match reports whether code has the form of a pattern, and binds the pattern's names.
func (n names) match(pattern, code reflect.Value) bool {
	if pattern.Type() != code.Type() {
		return false
	}
	switch pattern.Kind() {
	case reflect.Interface, reflect.Pointer:
		if pattern.IsNil() || code.IsNil() {
			return pattern.IsNil() && code.IsNil()
		}
		return n.match(pattern.Elem(), code.Elem())
	case reflect.Struct:
		if p, ok := pattern.Interface().(ast.Ident); ok {
			return n.bind(p.Name, code.Interface().(ast.Ident).Name)
		}
		for i := range pattern.NumField() {
			if !n.match(pattern.Field(i), code.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if pattern.Len() != code.Len() {
			return false
		}
		for i := range pattern.Len() {
			if !n.match(pattern.Index(i), code.Index(i)) {
				return false
			}
		}
		return true
	}
	_, position := pattern.Interface().(token.Pos)
	return position || pattern.Interface() == code.Interface()
}

// bind reports whether a pattern's name stands for a name in the code. Go's own names stand for themselves.
func (n names) bind(pattern, code string) bool {
	if types.Universe.Lookup(pattern) != nil {
		return pattern == code
	}
	if bound, ok := n[pattern]; ok {
		return bound == code
	}
	n[pattern] = code
	return true
}

// rename returns a text with the pattern's names replaced by those that they stand for.
func (n names) rename(text string) string {
	var s scanner.Scanner
	fset := token.NewFileSet()
	file := fset.AddFile("", fset.Base(), len(text))
	s.Init(file, []byte(text), nil, 0)
	var b strings.Builder
	copied := 0
	for {
		pos, tok, word := s.Scan()
		if tok == token.EOF {
			return b.String() + text[copied:]
		}
		if bound, ok := n[word]; ok && tok == token.IDENT {
			at := file.Offset(pos)
			b.WriteString(text[copied:at] + bound)
			copied = at + len(word)
		}
	}
}
