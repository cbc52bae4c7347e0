// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAPI compares the exported declarations of each public package with the
// reviewed text. It runs for the platform at hand against one text for all:
// the interface of a package does not depend on the operating system.
func TestAPI(t *testing.T) {
	t.Parallel()
	dirs := repository(t).public()
	var paths []string
	for _, dir := range dirs {
		paths = append(paths, importPath(dir))
	}
	pkgs, err := goList(t.Context(), nil, append([]string{"-export", "-deps"}, paths...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(strings.ReplaceAll(title(dir), "/", "."), func(t *testing.T) {
			t.Parallel()
			if err := pkgs[importPath(dir)].problem(); err != nil {
				t.Fatal(err)
			}
			pkg, err := exportImporter(pkgs).Import(importPath(dir))
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, "api", dir, dumpAPI(pkg),
				"This is what users compile against: removing or changing a line breaks them, adding one is a promise.")
			if n := exportedNames(pkg); n > maxExported && !allowed(t, ruleExported, dir) {
				t.Errorf("%s exports %d names, the budget is %d: split it or take back what only we need", dir, n, maxExported)
			}
		})
	}
	t.Run("orphans", func(t *testing.T) {
		checkNoOrphans(t, "api", dirs)
	})
}

// maxExported is how many top-level names a public package may have.
const maxExported = 40

// exportedNames counts the exported top-level names.
func exportedNames(pkg *types.Package) int {
	n := 0
	for _, name := range pkg.Scope().Names() {
		if token.IsExported(name) {
			n++
		}
	}
	return n
}

// exportImporter reads type information that the compiler left behind.
func exportImporter(pkgs map[string]*listed) types.Importer {
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		p := pkgs[path]
		if p == nil || p.Export == "" {
			return nil, fmt.Errorf("no export data for %s", path)
		}
		return os.Open(p.Export)
	})
}

// dumper writes the exported declarations of a package.
type dumper struct {
	strings.Builder
	pkg *types.Package
}

// dumpAPI returns the exported declarations of a package, one per line: plain
// names first, then each type with its fields and methods.
func dumpAPI(pkg *types.Package) string {
	d := &dumper{pkg: pkg}
	fmt.Fprintf(d, "package %s // import %q\n\n", pkg.Name(), pkg.Path())
	var funcs, typs []types.Object
	scope := pkg.Scope()
	for _, name := range scope.Names() { // sorted
		obj := scope.Lookup(name)
		if !obj.Exported() {
			continue
		}
		switch obj := obj.(type) {
		case *types.Const:
			fmt.Fprintf(d, "const %s %s = %s\n", name, d.typ(obj.Type()), value(obj.Val()))
		case *types.Var:
			fmt.Fprintf(d, "var %s %s\n", name, d.typ(obj.Type()))
		case *types.Func:
			funcs = append(funcs, obj)
		case *types.TypeName:
			typs = append(typs, obj)
		}
	}
	for _, f := range funcs {
		fmt.Fprintf(d, "func %s%s\n", f.Name(), d.signature(f.Type()))
	}
	for _, t := range typs {
		d.typeDecl(t.(*types.TypeName))
	}
	return d.String()
}

// value returns an exact, but bounded, constant.
func value(v constant.Value) string {
	if v.Kind() == constant.String {
		return v.ExactString()
	}
	return v.String()
}

// typ returns a type as the package itself would write it.
func (d *dumper) typ(t types.Type) string {
	return types.TypeString(t, func(p *types.Package) string {
		if p == d.pkg {
			return ""
		}
		return p.Name()
	})
}

// signature returns parameters and results.
func (d *dumper) signature(t types.Type) string {
	return strings.TrimPrefix(d.typ(t), "func")
}

// typeDecl writes a type with its fields and methods.
func (d *dumper) typeDecl(tn *types.TypeName) {
	if tn.IsAlias() {
		fmt.Fprintf(d, "\ntype %s = %s\n", tn.Name(), d.typ(types.Unalias(tn.Type())))
		return
	}
	fmt.Fprintf(d, "\ntype %s ", d.typ(tn.Type()))
	switch u := tn.Type().Underlying().(type) {
	case *types.Struct:
		d.WriteString("struct\n")
		d.fields(u)
	case *types.Interface:
		d.WriteString("interface\n")
		d.interfaceMethods(u)
		return
	default:
		fmt.Fprintf(d, "%s\n", d.typ(u))
	}
	d.methods(tn)
}

// fields writes the exported fields of a struct in their order, and whether
// there are others, since that decides who can make or compare a value.
func (d *dumper) fields(s *types.Struct) {
	hidden := false
	for i := range s.NumFields() {
		f := s.Field(i)
		switch {
		case !f.Exported():
			hidden = true
		case f.Embedded():
			fmt.Fprintf(d, "\t%s // embedded%s\n", d.typ(f.Type()), tag(s.Tag(i)))
		default:
			fmt.Fprintf(d, "\t%s %s%s\n", f.Name(), d.typ(f.Type()), tag(s.Tag(i)))
		}
	}
	if hidden {
		d.WriteString("\t// and unexported fields\n")
	}
}

// tag returns a struct tag as it is written.
func tag(s string) string {
	if s == "" {
		return ""
	}
	return " `" + s + "`"
}

// interfaceMethods writes what an implementation needs.
func (d *dumper) interfaceMethods(i *types.Interface) {
	hidden := false
	for m := range i.Methods() {
		if !m.Exported() {
			hidden = true
			continue
		}
		fmt.Fprintf(d, "\t%s%s\n", m.Name(), d.signature(m.Type()))
	}
	if hidden {
		d.WriteString("\t// and unexported methods\n")
	}
	if !i.IsMethodSet() {
		fmt.Fprintf(d, "\t// constraint: %s\n", d.typ(i))
	}
}

// methods writes the methods of a type, those of embedded types included.
func (d *dumper) methods(tn *types.TypeName) {
	byValue := types.NewMethodSet(tn.Type())
	byPointer := types.NewMethodSet(types.NewPointer(tn.Type()))
	for sel := range byPointer.Methods() { // sorted
		m := sel.Obj()
		if !m.Exported() {
			continue
		}
		recv := "*" + tn.Name()
		if byValue.Lookup(m.Pkg(), m.Name()) != nil {
			recv = tn.Name()
		}
		fmt.Fprintf(d, "\tfunc (%s) %s%s\n", recv, m.Name(), d.signature(sel.Type()))
	}
}

func TestDumpAPI(t *testing.T) {
	t.Parallel()
	const src = `package p
const A = 1
const Name Level = "x"
var Err error
var hidden int
type Level string
func (l Level) String() string { return string(l) }
type Options struct { B int ` + "`json:\"b\"`" + `; c int; Level }
func (o *Options) Do(f func(x int) error) (n int, err error) { return 0, nil }
func (o *Options) private() {}
type I interface { M(a, b int); n() }
type Num interface { ~int | ~string }
type Pair[K comparable, V any] struct { Key K }
type Alias = Options
func New(o *Options) I { return nil }
`
	want := []string{
		`package p // import "p"`, "",
		"const A untyped int = 1",
		"var Err error",
		`const Name Level = "x"`,
		"func New(o *Options) I",
		"", "type Alias = Options",
		"", "type I interface", "\tM(a int, b int)", "\t// and unexported methods",
		"", "type Level string", "\tfunc (Level) String() string",
		"", "type Num interface", "\t// constraint: interface{~int | ~string}",
		"", "type Options struct", "\tB int `json:\"b\"`", "\tLevel // embedded", "\t// and unexported fields",
		"\tfunc (*Options) Do(f func(x int) error) (n int, err error)", "\tfunc (Options) String() string",
		"", "type Pair[K comparable, V any] struct", "\tKey K",
		"",
	}
	s := mustParse(t, "p/p.go", src)
	pkg, err := (&types.Config{}).Check("p", s.fset, []*ast.File{s.file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.Split(dumpAPI(pkg), "\n")); diff != "" {
		t.Errorf("dump (-want +got):\n%s", diff)
	}
	if got := exportedNames(pkg); got != 10 {
		t.Errorf("exported names = %d, want 10", got)
	}
}
