package repo

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocs_goCodeCompiles compiles every block of Go code. A block with a package clause has to compile as it
// stands. Any other block is an excerpt: it becomes the body of a function that has what the text speaks of.
func TestDocs_goCodeCompiles(t *testing.T) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	dir, err := filepath.Abs(root)
	must(t, err)
	var packages []string
	for _, page := range files(t, ".md") {
		for i, code := range goBlocks(read(t, page)) {
			name := fmt.Sprintf("internal/repo/%s%d", strings.NewReplacer("/", "_", ".", "_").Replace(page),
				i)
			if !strings.HasPrefix(code, "package ") && !strings.Contains(code, "\npackage ") {
				code = excerpt(code)
			}
			file := filepath.Join(t.TempDir(), "main.go")
			must(t, os.WriteFile(file, []byte(code), 0o644))
			overlay.Replace[filepath.Join(dir, name, "main.go")] = file
			packages = append(packages, "./"+name)
		}
	}
	if len(packages) < 2 {
		t.Fatalf("only %d blocks of Go code found", len(packages))
	}
	list, err := json.Marshal(overlay)
	must(t, err)
	overlayFile := filepath.Join(t.TempDir(), "overlay.json")
	must(t, os.WriteFile(overlayFile, list, 0o644))
	// go list -export compiles and doesn't link.
	cmd := exec.Command("go", append([]string{"list", "-export", "-overlay", overlayFile}, packages...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// looksLikeGo matches an indented block that is Go code and no command, SQL or output.
var looksLikeGo = regexp.MustCompile(`(?m)^\s*(func |type |import |package )|:= |, err = `)

// goBlocks returns the Go code of a page: fenced blocks that are marked as Go, and indented blocks that look
// like it.
func goBlocks(page string) []string {
	var blocks []string
	fence := regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		if m[1] == "go" {
			blocks = append(blocks, m[2])
		}
	}
	indented := regexp.MustCompile(`(?m)^\n((?:    .*\n|\n)+)`)
	for _, m := range indented.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		if looksLikeGo.MatchString(m[1]) {
			blocks = append(blocks, m[1])
		}
	}
	return blocks
}

// imports are the packages that excerpts may use without an import.
var imports = map[string]string{
	"context": "context", "crypto": "crypto", "embed": "embed", "errors": "errors", "fmt": "fmt",
	"fs":   "io/fs",
	"http": "net/http", "os": "os", "slog": "log/slog", "sql": "database/sql", "time": "time",
	"tenantdb": "github.com/tenantdb/tenantdb", "fleet": "github.com/tenantdb/tenantdb/fleet",
	"hostdb": "github.com/tenantdb/tenantdb/hostdb", "jobs": "github.com/tenantdb/tenantdb/jobs",
	"jwtauth":      "github.com/tenantdb/tenantdb/jwtauth",
	"stripehook":   "github.com/tenantdb/tenantdb/stripehook",
	"tenantdbtest": "github.com/tenantdb/tenantdb/tenantdbtest",
}

// excerpt makes a program of statements. What they declare counts as used.
func excerpt(code string) string {
	uses := ""
	for _, m := range regexp.MustCompile(`(?m)^\s*(\w+(?:, \w+)*) := `).FindAllStringSubmatch(code, -1) {
		for name := range strings.SplitSeq(m[1], ", ") {
			if name != "_" {
				uses += "_ = " + name + "\n"
			}
		}
	}
	body := `func excerpt(ctx context.Context, host *hostdb.DB, pool *tenantdb.Pool,
		mw *tenantdb.Middleware, mux *http.ServeMux, w http.ResponseWriter, r *http.Request,
		next http.Handler, auth tenantdb.Authenticator,
		keys map[string]crypto.PublicKey, origins *http.CrossOriginProtection,
		tenants *fleet.Fleet) {
		{
			` + code + uses + `
		}
	}
	func main() { excerpt(nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil) }
	`
	head := "package main\n"
	for name, path := range imports {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(body) {
			head += fmt.Sprintf("import %s %q\n", name, path)
		}
	}
	return head + body
}

// TestDocs_linksAndFileNamesExist follows relative links, with their anchors, and looks for every file that a
// page names: by its path from the root or from the page, or by its name alone.
func TestDocs_linksAndFileNamesExist(t *testing.T) {
	names := map[string]bool{}
	for _, file := range files(t, "") {
		names[path.Base(file)] = true
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|href|srcset)="([^"]+)"`)
	mention := regexp.MustCompile(`[\w./-]*\w\.(?:go|md|sh|sql|svg|ini|txt|conf|mod|yml)\b`)
	url := regexp.MustCompile(`\w+://\S+`)
	for _, page := range files(t, ".md") {
		text := read(t, page)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1]+m[2], "#")
			if strings.Contains(target, "://") {
				continue
			}
			target = path.Join(path.Dir(page), target)
			if strings.HasPrefix(m[1]+m[2], "#") {
				target = page
			}
			if !exists(target) {
				t.Errorf("%s: a link to %s, which doesn't exist", page, m[1]+m[2])
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: a link to %s, which has no such heading", page, m[1]+m[2])
			}
		}
		for _, name := range mention.FindAllString(url.ReplaceAllString(text, ""), -1) {
			if regexp.MustCompile(`^\d{5}_`).MatchString(path.Base(name)) ||
				strings.HasPrefix(name, "github.com/") {
				continue // an example of a migration; a module
			}
			if !exists(name) && !exists(path.Join(path.Dir(page), name)) && !names[name] {
				t.Errorf("%s: names %s, which doesn't exist", page, name)
			}
		}
	}
}

// anchors returns the anchors that GitHub gives a page's headings.
func anchors(page string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(anchor, " ", "-"))
	}
	return all
}

// TestDocs_identifiersExist looks for every exported identifier of this module that a page names, such as
// fleet.Migrate, PoolConfig.MaxConns or hostdb.Config.Now.
func TestDocs_identifiersExist(t *testing.T) {
	packages, types := exported(t)
	identifier := regexp.MustCompile("[`(\\s*\\[]((?:[a-z]+\\.)?[A-Z]\\w*(?:\\.[A-Z]\\w*)?)\\b")
	found := 0
	for _, page := range files(t, ".md") {
		if page == "CHANGELOG.md" {
			continue // it names what there was
		}
		for _, m := range identifier.FindAllStringSubmatch(read(t, page), -1) {
			parts := strings.Split(m[1], ".")
			known := true
			switch of := packages[parts[0]]; {
			case of != nil && len(parts) == 2:
				// a variable's method
				known = of[parts[1]] != nil || parts[0] == "fleet" && of["Fleet"][parts[1]]
			case of != nil && len(parts) == 3:
				known = of[parts[1]] != nil && of[parts[1]][parts[2]]
			case len(parts) == 2 && types[parts[0]] != nil && ast.IsExported(parts[0]):
				known = types[parts[0]][parts[1]]
			default:
				continue // another module's, or a word at the end of a sentence
			}
			found++
			if !known {
				t.Errorf("%s: names %s, which doesn't exist", page, m[1])
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d identifiers found", found)
	}
}

// exported returns the exported identifiers of each package that programs import, each with its fields and
// methods; and the fields and methods of all types by the types' names.
func exported(t *testing.T) (packages map[string]map[string]map[string]bool,
	types map[string]map[string]bool) {
	t.Helper()
	packages, types = map[string]map[string]map[string]bool{}, map[string]map[string]bool{}
	add := func(pkg, name, member string) {
		if packages[pkg] == nil {
			packages[pkg] = map[string]map[string]bool{}
		}
		if packages[pkg][name] == nil {
			packages[pkg][name] = map[string]bool{}
		}
		if types[name] == nil {
			types[name] = map[string]bool{}
		}
		packages[pkg][name][member], types[name][member] = true, true
	}
	dirs := strings.Fields(". hostdb fleet jobs jwtauth stripehook tenantdbtest contrib/gin " +
		"contrib/prometheus")
	for _, file := range files(t, ".go") {
		if strings.HasSuffix(file, "_test.go") || !slices.Contains(dirs, path.Dir(file)) {
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil,
			parser.SkipObjectResolution)
		must(t, err)
		for _, declaration := range syntax.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(syntax.Name.Name, d.Name.Name, "")
				} else {
					add(syntax.Name.Name, receiver(d.Recv.List[0].Type), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.ValueSpec:
						for _, name := range s.Names {
							add(syntax.Name.Name, name.Name, "")
						}
					case *ast.TypeSpec:
						for _, member := range members(s.Type) {
							add(syntax.Name.Name, s.Name.Name, member)
						}
					}
				}
			}
		}
	}
	return packages, types
}

// receiver returns the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// members returns the names of a struct's fields or of an interface's methods, and "" for the type itself.
func members(e ast.Expr) []string {
	names := []string{""}
	var fields *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		fields = e.Fields
	case *ast.InterfaceType:
		fields = e.Methods
	default:
		return names
	}
	for _, field := range fields.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}

// TestDocs_testsExist looks for the tests and benchmarks that commands in the pages run.
func TestDocs_testsExist(t *testing.T) {
	source := ""
	for _, file := range files(t, "_test.go") {
		source += read(t, file)
	}
	for _, page := range files(t, ".md") {
		for _, m := range regexp.MustCompile(`-(run|bench) '?([\w/|]+)`).FindAllStringSubmatch(read(t, page),
			-1) {
			kind := map[string]string{"run": "(Test|Fuzz|Example)", "bench": "Benchmark"}[m[1]]
			for name := range strings.SplitSeq(m[2], "|") {
				name, _, _ = strings.Cut(name, "/")
				name = strings.TrimPrefix(strings.TrimPrefix(name, "Test"), "Benchmark")
				if !regexp.MustCompile(`(?m)^func ` + kind + `\w*` + name).MatchString(source) {
					t.Errorf("%s: -%s %s runs nothing", page, m[1], m[2])
				}
			}
		}
	}
}
