// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPackageComments looks at all packages of all modules.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	byDir := map[string][]*source{}
	for _, s := range repository(t).sources {
		if !s.isTest() {
			byDir[s.dir()] = append(byDir[s.dir()], s)
		}
	}
	for dir, files := range byDir {
		if bad := checkPackageComment(dir, files); bad != "" {
			t.Errorf("%s: %s. The package comment is the manual.", dir, bad)
		}
	}
}

// checkPackageComment returns what is wrong with the comment of a package.
func checkPackageComment(dir string, files []*source) string {
	want := "Package " + files[0].file.Name.Name + " "
	if files[0].isMain() {
		want = "Command " + path.Base(dir) + " "
	}
	n := 0
	for _, s := range files {
		if s.file.Doc == nil {
			continue
		}
		n++
		if !strings.HasPrefix(s.file.Doc.Text(), want) {
			return s.path + ": the package comment does not start with " + want
		}
	}
	switch n {
	case 0:
		return "no package comment (" + want + "…)"
	case 1:
		return ""
	}
	return "more than one file has a package comment, which go doc joins in an order of its own"
}

// TestDocumented looks at every exported name of every package of the root
// module, internal ones included.
func TestDocumented(t *testing.T) {
	t.Parallel()
	for _, files := range repository(t).packages() {
		for _, name := range undocumented(files) {
			t.Errorf("%s is exported and has no comment", name)
		}
	}
}

// undocumented returns the exported names of a package that no file documents.
// A name can be declared once for each platform: one comment is enough.
func undocumented(files []*source) []string {
	places, documented := map[string]string{}, map[string]bool{}
	note := func(s *source, n ast.Node, name string, docs ...*ast.CommentGroup) {
		if _, ok := places[name]; !ok {
			places[name] = s.at(n)
		}
		for _, d := range docs {
			documented[name] = documented[name] || d.Text() != ""
		}
	}
	for _, s := range files {
		for _, decl := range s.file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if name, ok := exportedFunc(decl); ok {
					note(s, decl, name, decl.Doc)
				}
			case *ast.GenDecl:
				noteSpecs(s, decl, note)
			}
		}
	}
	var bad []string
	for name, place := range places {
		if !documented[name] {
			bad = append(bad, place+": "+name)
		}
	}
	slices.Sort(bad)
	return bad
}

// noteSpecs notes the exported names of a declaration. A comment on a group of
// constants or variables covers them all.
func noteSpecs(s *source, decl *ast.GenDecl, note func(*source, ast.Node, string, ...*ast.CommentGroup)) {
	for _, spec := range decl.Specs {
		switch spec := spec.(type) {
		case *ast.ValueSpec:
			for _, n := range spec.Names {
				if n.IsExported() {
					note(s, spec, n.Name, decl.Doc, spec.Doc, spec.Comment)
				}
			}
		case *ast.TypeSpec:
			if !spec.Name.IsExported() {
				continue
			}
			docs := []*ast.CommentGroup{spec.Doc}
			if !decl.Lparen.IsValid() {
				docs = append(docs, decl.Doc)
			}
			note(s, spec, spec.Name.Name, docs...)
			for _, m := range contract(s, spec) {
				note(s, m, spec.Name.Name+"."+m.Names[0].Name, m.Doc, m.Comment)
			}
		}
	}
}

// contract returns the methods of an interface that need words of their own:
// those that users may have to implement, unless there is just one, which the
// comment of the type speaks about.
func contract(s *source, spec *ast.TypeSpec) []*ast.Field {
	iface, ok := spec.Type.(*ast.InterfaceType)
	if !ok || !isPublic(s.dir()) || iface.Methods.NumFields() == 1 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(iface.Methods.List), func(m *ast.Field) bool {
		return len(m.Names) != 1 || !m.Names[0].IsExported()
	})
}

// exportedFunc returns the name of a function, or of a method of an exported
// type, that users can call. Methods that a standard interface already
// explains need no words of their own.
func exportedFunc(decl *ast.FuncDecl) (string, bool) {
	name := decl.Name.Name
	if !decl.Name.IsExported() {
		return "", false
	}
	if decl.Recv == nil || len(decl.Recv.List) == 0 {
		return name, true
	}
	recv := receiver(decl.Recv.List[0].Type)
	switch name {
	case "Error", "Unwrap", "String":
		return "", false
	}
	return recv + "." + name, token.IsExported(recv)
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

func TestUndocumented(t *testing.T) {
	t.Parallel()
	files := []*source{
		mustParse(t, "p/p_linux.go", `package p
// A is documented here.
func A() {}
func B() {}
type T struct{ X int }
func (t *T) M() {}
func (t *T) Error() string { return "" }
func (u u[V]) N() {}
// Group.
const (
	C = 1
	D = 2
)
var V, w int
var ErrX error // ErrX is on its line.
// I is an interface.
type I interface {
	// M1 is documented.
	M1()
	M2()
}
// One has one method.
type One interface { M() }
`),
		mustParse(t, "p/p_other.go", "package p\nfunc A() {}\nfunc B() {}\n"),
	}
	want := []string{"p/p_linux.go:14: V", "p/p_linux.go:20: I.M2", "p/p_linux.go:4: B", "p/p_linux.go:5: T", "p/p_linux.go:6: T.M"}
	if diff := cmp.Diff(want, undocumented(files)); diff != "" {
		t.Errorf("undocumented (-want +got):\n%s", diff)
	}
}

func TestCheckPackageComment(t *testing.T) {
	t.Parallel()
	parse := func(texts ...string) (files []*source) {
		for _, text := range texts {
			files = append(files, mustParse(t, "d/a.go", text))
		}
		return files
	}
	for text, ok := range map[string]bool{
		"// Package p is.\npackage p\n":      true,
		"// Command d runs.\npackage main\n": true,
		"// Package q is.\npackage p\n":      false,
		"// P is.\npackage p\n":              false,
		"// A licence.\n\npackage p\n":       false,
		"package p\n":                        false,
	} {
		if bad := checkPackageComment("d", parse(text)); (bad == "") != ok {
			t.Errorf("%q: %q, want ok = %t", text, bad, ok)
		}
	}
	if bad := checkPackageComment("d", parse("// Package p is.\npackage p\n", "// Package p is.\npackage p\n")); bad == "" {
		t.Error("two package comments passed")
	}
}
