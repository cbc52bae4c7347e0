// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"
	"testing"
)

// lightModules are what may be linked, directly or not, by the trees that run
// inside other people's operators.
func lightModules() []string {
	return []string{
		"github.com/cenkalti/backoff/v4", // by internal/retry; brings nothing
		"github.com/hashicorp/go-hclog",
		"github.com/fatih/color",        // by hclog
		"github.com/mattn/go-colorable", // by hclog
		"github.com/mattn/go-isatty",    // by hclog
		"golang.org/x/sys",
	}
}

// linked returns the modules of everything that a package imports, sorted and
// without the root module. Versions are left out: go.mod shows them already.
func linked(pkgs map[string]*listed, p *listed) []string {
	var mods []string
	for _, dep := range p.Deps {
		if d := pkgs[dep]; d != nil && d.Module != nil && d.Module.Path != modulePath {
			mods = append(mods, d.Module.Path)
		}
	}
	slices.Sort(mods)
	return slices.Compact(mods)
}

// TestLinks compares what an embedder of each public package links with the
// reviewed lists.
func TestLinks(t *testing.T) {
	t.Parallel()
	dirs := slices.DeleteFunc(repository(t).public(), isTestKit)
	// The lists are those of one platform, whichever runs the test.
	env := []string{"GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0"}
	pkgs, err := goList(t.Context(), env, "-deps", "./...")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(strings.ReplaceAll(title(dir), "/", "."), func(t *testing.T) {
			t.Parallel()
			p := pkgs[importPath(dir)]
			if p == nil {
				t.Fatalf("go list does not know %s", importPath(dir))
			}
			if err := p.problem(); err != nil {
				t.Fatal(err)
			}
			mods := linked(pkgs, p)
			if covers([]string{"hooks/...", "snapshot/..."}, dir) {
				for _, m := range mods {
					if !slices.Contains(lightModules(), m) {
						t.Errorf("%s links %s: %s", dir, m, whyLight)
					}
				}
			}
			checkGolden(t, "links", dir, strings.Join(append(mods, ""), "\n"),
				"These are the modules that every embedder of the package carries, audits and updates: more is a decision, less is a gift.")
		})
	}
	t.Run("orphans", func(t *testing.T) {
		checkNoOrphans(t, "links", dirs)
	})
}

func TestLinked(t *testing.T) {
	t.Parallel()
	mod := func(path string) *struct{ Path string } { return &struct{ Path string }{path} }
	pkgs := map[string]*listed{
		"fmt":                      {Standard: true},
		modulePath + "/internal/x": {Module: mod(modulePath)},
		"b.org/m/p":                {Module: mod("b.org/m")},
		"b.org/m/q":                {Module: mod("b.org/m")},
		"a.org/m":                  {Module: mod("a.org/m")},
	}
	p := &listed{Deps: []string{"b.org/m/p", "fmt", "b.org/m/q", "a.org/m", modulePath + "/internal/x"}}
	if got, want := linked(pkgs, p), []string{"a.org/m", "b.org/m"}; !slices.Equal(got, want) {
		t.Errorf("linked = %v, want %v", got, want)
	}
}
