// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	// root is the repository as seen from this package's directory, where
	// go test runs its tests.
	root = "../.."
	// modulePath is the import path of the root module.
	modulePath = "github.com/stillpoint-go/protect"
)

// source is one Go file, whatever platform it is built for.
type source struct {
	path   string // relative to the repository, with slashes
	module string // directory of its module: "." or such as "examples"
	text   string
	file   *ast.File
	fset   *token.FileSet
}

// dir returns the directory of the package, "." for the façade.
func (s *source) dir() string { return path.Dir(s.path) }

// isTest reports whether the file is compiled into tests only.
func (s *source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// isMain reports whether the file belongs to a program.
func (s *source) isMain() bool { return s.file.Name.Name == "main" }

// at returns the place of a node, for messages.
func (s *source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// isTestKit reports whether the package in dir exists for tests alone: it may
// import testing, and only tests may import it.
func isTestKit(dir string) bool {
	return strings.HasSuffix(path.Base(dir), "test")
}

// isPublic reports whether users can import the package in dir of the root
// module.
func isPublic(dir string) bool {
	return !slices.Contains(strings.Split(dir, "/"), "internal")
}

// tree is the repository.
type tree struct {
	sources  []*source
	modules  []string // directories that hold a go.mod, "." first
	markdown []string // documents, relative to the repository
}

// loadTree reads the whole repository once. Reading every file in this very
// process has a second use: go test keys its cache on the files that a test
// opens, and does not see what a child process such as go list reads.
var loadTree = sync.OnceValues(func() (*tree, error) {
	t := &tree{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		return t.add(name, rel)
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(t.modules)
	for _, s := range t.sources {
		s.module = moduleOf(t.modules, s.path)
	}
	return t, nil
})

// add notes one file.
func (t *tree) add(name, rel string) error {
	base := path.Base(rel)
	switch {
	case base == "go.mod":
		t.modules = append(t.modules, path.Dir(rel))
	case base == "go.sum" || base == "go.work" || base == "go.work.sum":
	case strings.HasSuffix(base, ".md"):
		t.markdown = append(t.markdown, rel)
	case strings.HasSuffix(base, ".go"):
	default:
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(base, ".go") {
		return nil
	}
	s, err := parse(rel, string(text))
	if err != nil {
		return err
	}
	t.sources = append(t.sources, s)
	return nil
}

// parse parses one file.
func parse(rel, text string) (*source, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{path: rel, module: ".", text: text, file: f, fset: fset}, nil
}

// moduleOf returns the innermost of the sorted module directories that holds
// the file.
func moduleOf(modules []string, rel string) string {
	best := "."
	for _, m := range modules {
		if strings.HasPrefix(rel, m+"/") && len(m) > len(best) {
			best = m
		}
	}
	return best
}

// repository returns the tree or ends the test.
func repository(t *testing.T) *tree {
	t.Helper()
	r, err := loadTree()
	if err != nil {
		t.Fatalf("policy: cannot read the repository: %v", err)
	}
	return r
}

// mustParse parses a source of a table test.
func mustParse(t *testing.T, rel, text string) *source {
	t.Helper()
	s, err := parse(rel, text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// packages returns the files of the root module by directory, tests apart.
func (t *tree) packages() map[string][]*source {
	m := map[string][]*source{}
	for _, s := range t.sources {
		if s.module == "." && !s.isTest() {
			m[s.dir()] = append(m[s.dir()], s)
		}
	}
	return m
}

// public returns the directories of the packages that users can import,
// sorted.
func (t *tree) public() []string {
	var dirs []string
	for dir, files := range t.packages() {
		if isPublic(dir) && !files[0].isMain() {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}
