// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"go/ast"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	whyCaller = "a library is a guest: what it needs is passed in"
	whyPrint  = "a library is a guest: return the error, or log through the caller's hclog.Logger"
	whyCtx    = "take ctx from the caller; clean up on context.WithoutCancel(ctx) with a deadline of its own"
)

// forbidden maps the import path and name of what library code does not use to
// the reason. A name that ends in * stands for all that start so.
var forbidden = map[string]string{
	"os.Exit":                               "a library does not end the program of its caller",
	"os.Getenv":                             whyCaller,
	"os.LookupEnv":                          whyCaller,
	"os.Setenv":                             whyCaller,
	"os.Stdout":                             whyPrint,
	"os.Stderr":                             whyPrint,
	"fmt.Print*":                            whyPrint,
	"log.Default":                           whyPrint,
	"log.Fatal*":                            whyPrint,
	"log.Panic*":                            whyPrint,
	"log.Print*":                            whyPrint,
	"log/slog.Default":                      whyPrint,
	"context.Background":                    whyCtx,
	"context.TODO":                          whyCtx,
	"time.Sleep":                            "a sleep ignores cancellation: select on ctx.Done() and a timer",
	"github.com/hashicorp/go-hclog.L":       "no global loggers: use the injected one",
	"github.com/hashicorp/go-hclog.Default": "no global loggers: use the injected one",
	"github.com/hashicorp/go-hclog.FromContext": "it falls back to the global logger: use the injected one",
}

// TestHabits checks the library code of the root module: no programs, no
// tests, no test kits.
func TestHabits(t *testing.T) {
	t.Parallel()
	for _, s := range repository(t).sources {
		if s.module != "." || s.isTest() || s.isMain() || isTestKit(s.dir()) {
			continue
		}
		for _, f := range checkHabits(s) {
			if !allowed(t, f.what, s.path) {
				t.Errorf("%s uses %s: %s", f.place, f.what, f.why)
			}
		}
	}
}

// finding is a use of something forbidden.
type finding struct{ place, what, why string }

// checkHabits returns the forbidden things that a file does.
func checkHabits(s *source) []finding {
	var found []finding
	names := importedNames(s)
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				found = append(found, finding{s.at(n), "init", "importing a package has no effects: construct explicitly"})
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") {
				found = append(found, finding{s.at(n), id.Name, whyPrint})
			}
		case *ast.SelectorExpr:
			id, ok := n.X.(*ast.Ident)
			if !ok || names[id.Name] == "" {
				return true
			}
			if why := whyForbidden(names[id.Name], n.Sel.Name); why != "" {
				found = append(found, finding{s.at(n), path.Base(names[id.Name]) + "." + n.Sel.Name, why})
			}
		}
		return true
	})
	return found
}

// whyForbidden returns why a name is not used, or nothing.
func whyForbidden(pkg, name string) string {
	for f, why := range forbidden {
		prefix, star := strings.CutSuffix(f, "*")
		full := pkg + "." + name
		if full == f || star && strings.HasPrefix(full, prefix) {
			return why
		}
	}
	return ""
}

// importedNames maps the names under which a file knows its imports to their
// paths.
func importedNames(s *source) map[string]string {
	names := map[string]string{}
	for _, spec := range s.file.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		name := strings.TrimPrefix(path.Base(imp), "go-") // hclog's package name
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = imp
	}
	return names
}

// licence is the first line of every Go file, of all modules.
const licence = "// SPDX-License-Identifier: Apache-2.0\n"

func TestLicenceHeader(t *testing.T) {
	t.Parallel()
	for _, s := range repository(t).sources {
		if !strings.HasPrefix(strings.ReplaceAll(s.text, "\r\n", "\n"), licence) {
			t.Errorf("%s does not start with %q", s.path, licence)
		}
	}
}

// The sizes that a reader can hold in the head.
const (
	maxFileLines = 400
	maxFuncLines = 60
)

// TestSizes looks at the files of all modules, and at the functions that are
// not tests: a long table makes a long test, but not a hard one.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, s := range repository(t).sources {
		for _, o := range oversized(s) {
			if !allowed(t, o.rule, o.where) {
				t.Errorf("%s: %s is %d lines, the budget is %d: split it, or give the reason in internal/policy/allow_test.go",
					o.where, o.rule, o.lines, o.budget)
			}
		}
	}
}

// excess is something longer than its budget.
type excess struct {
	rule, where   string
	lines, budget int
}

// oversized returns what exceeds the budgets in a file.
func oversized(s *source) []excess {
	var out []excess
	if n := strings.Count(s.text, "\n"); n > maxFileLines {
		out = append(out, excess{ruleFileLength, s.path, n, maxFileLines})
	}
	for _, decl := range s.file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil || s.isTest() {
			continue
		}
		n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
		if n <= maxFuncLines {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil && len(f.Recv.List) > 0 {
			name = receiver(f.Recv.List[0].Type) + "." + name
		}
		out = append(out, excess{ruleFuncLength, s.path + ":" + name, n, maxFuncLines})
	}
	return out
}

// TestAllowances fails for exceptions that nothing needs any more.
func TestAllowances(t *testing.T) {
	t.Parallel()
	needed := map[string]bool{}
	for _, s := range repository(t).sources {
		for _, o := range oversized(s) {
			needed[o.rule+" "+o.where] = true
		}
		for _, f := range checkHabits(s) {
			needed[f.what+" "+s.path] = true
		}
	}
	for _, a := range allowances() {
		if a.why == "" {
			t.Errorf("the exception of %s from %s gives no reason", a.where, a.rule)
		}
		if a.rule != ruleExported && !needed[a.rule+" "+a.where] {
			t.Errorf("%s needs no exception from %s any more", a.where, a.rule)
		}
	}
}

func TestCheckHabits(t *testing.T) {
	t.Parallel()
	s := mustParse(t, "p/p.go", `package p
import (
	"context"
	"fmt"
	"log"
	stdtime "time"
	"os"
	"github.com/hashicorp/go-hclog"
)
func init() {}
func f(os2 int) {
	_ = context.Background()
	_ = context.WithoutCancel(nil)
	fmt.Println()
	_ = fmt.Sprint()
	log.Fatal()
	stdtime.Sleep(1)
	g(os.Exit, os.Stderr, os.Open)
	hclog.L().Info("")
	_ = hclog.NewNullLogger()
	println()
}
type T struct{}
func (T) init() {}
`)
	var got []string
	for _, f := range checkHabits(s) {
		got = append(got, fmt.Sprintf("%s %s", f.place, f.what))
	}
	want := []string{
		"p/p.go:10 init", "p/p.go:12 context.Background", "p/p.go:14 fmt.Println", "p/p.go:16 log.Fatal", "p/p.go:17 time.Sleep",
		"p/p.go:18 os.Exit", "p/p.go:18 os.Stderr", "p/p.go:19 go-hclog.L", "p/p.go:21 println",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestOversized(t *testing.T) {
	t.Parallel()
	body := func(lines int) string { return strings.Repeat("\n", lines-1) }
	text := "package p\nfunc (t *T[V]) M() {" + body(61) + "}\nfunc f() {" + body(60) + "}\n" + strings.Repeat("//\n", 278)
	if diff := cmp.Diff(
		[]excess{{ruleFuncLength, "p/p.go:T.M", 61, maxFuncLines}},
		oversized(mustParse(t, "p/p.go", text)), cmp.AllowUnexported(excess{})); diff != "" {
		t.Errorf("400 lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(
		[]excess{{ruleFileLength, "p/p_test.go", 401, maxFileLines}},
		oversized(mustParse(t, "p/p_test.go", text+"\n")), cmp.AllowUnexported(excess{})); diff != "" {
		t.Errorf("401 lines of test (-want +got):\n%s", diff)
	}
}
