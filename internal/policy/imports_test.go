// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rule limits what a set of packages may import.
//
// Packages are named by their directory. An import is named "./dir" if it is
// of this module ("." is the façade), else by its import path. A name that
// ends in "/..." covers the tree below it as well. Three words stand for sets
// of imports: "std", "public" and "testkit" (packages of this
// module that users can import, and that exist for tests alone).
type rule struct {
	from   []string // who; "..." is every package of the root module
	except []string // who not
	tests  bool     // the rule also holds for _test.go files
	allow  []string // if set, the only imports
	deny   []string // forbidden imports
	why    string
}

const (
	whySiblings = "hooks, snapshot and repo are siblings: each must be usable, and be understood, without the others; restore and the façade compose them"
	whyLight    = "hooks and snapshot run inside other people's operators: std, hclog and x/sys is all that they may cost"
	whyDriver   = "a driver is a leaf: it knows its own driver package and nothing of who uses it"
)

// rules returns the import directions of the house.
func rules() []rule {
	return slices.Concat(directionRules(), weightRules(), testRules())
}

// directionRules say who is above whom.
func directionRules() []rule {
	return []rule{
		{from: []string{"hooks/..."}, tests: true, deny: []string{".", "./snapshot/...", "./repo/...", "./restore/..."}, why: whySiblings},
		{from: []string{"snapshot/..."}, tests: true, deny: []string{".", "./hooks/...", "./repo/...", "./restore/..."}, why: whySiblings},
		{from: []string{"repo/..."}, tests: true, deny: []string{".", "./hooks/...", "./snapshot/...", "./restore/..."}, why: whySiblings},
		{
			from: []string{"restore/..."}, tests: true, deny: []string{".", "./hooks/...", "./snapshot/..."},
			why: "restore builds on repo alone: getting data back must not need the machinery that took it",
		},
		{
			from: []string{"internal/..."}, deny: []string{"public"},
			why: "internal packages are leaves under the public ones; an import upwards makes a cycle sooner or later",
		},
		{
			from: []string{"snapshot/driver"}, allow: []string{"std"},
			why: "whoever writes a driver imports this package: the standard library only, always",
		},
		{
			from: []string{"snapshot/..."}, except: []string{"snapshot", "snapshot/driver", "snapshot/snapshottest"},
			allow: []string{"std", "./snapshot/driver", "./snapshot/internal/...", "./internal/...", "golang.org/x/sys/..."}, why: whyDriver,
		},
		{
			from: []string{"hooks/..."}, except: []string{"hooks", "hooks/hookstest"},
			allow: []string{"std", "./hooks", "./hooks/internal/...", "./internal/...", "github.com/hashicorp/go-hclog", "golang.org/x/sys/..."}, why: whyDriver,
		},
		{
			from:  []string{"repo/dirbucket"},
			allow: []string{"std", "./internal/...", "github.com/hashicorp/go-hclog", "gocloud.dev/blob", "gocloud.dev/blob/driver", "gocloud.dev/gcerrors", "golang.org/x/sys/..."},
			why:   whyDriver,
		},
	}
}

// weightRules say what may be linked where.
func weightRules() []rule {
	return []rule{
		{
			from: []string{"hooks/..."}, except: []string{"hooks/hookstest"},
			allow: []string{"std", "./hooks/...", "./internal/...", "github.com/hashicorp/go-hclog", "golang.org/x/sys/..."}, why: whyLight,
		},
		{
			from: []string{"snapshot/..."}, except: []string{"snapshot/snapshottest"},
			allow: []string{"std", "./snapshot/...", "./internal/...", "github.com/hashicorp/go-hclog", "golang.org/x/sys/..."}, why: whyLight,
		},
		{
			from:  []string{"."},
			allow: []string{"std", "./...", "github.com/hashicorp/go-hclog", "golang.org/x/sync/..."},
			why:   "the façade composes the packages below it and does no work of its own that would need a library",
		},
		{
			from:   []string{"..."},
			except: []string{"internal/store", "repo", "repo/dirbucket", "repo/repotest"},
			deny:   []string{"gocloud.dev/..."},
			why:    "gocloud.dev/blob brings some twenty modules: it stays behind internal/store, so that hooks, snapshot and the rest remain light",
		},
		{
			from: []string{"..."}, tests: true,
			deny: []string{"gocloud.dev/blob/s3blob", "gocloud.dev/blob/gcsblob", "gocloud.dev/blob/azureblob"},
			why:  "a cloud driver puts its SDK into the root go.mod; it belongs in the examples or internal/integration modules",
		},
		{
			from: []string{"..."}, deny: []string{"gocloud.dev/blob/fileblob"},
			why: "fileblob's create-once is not atomic and its writes are not durable: use repo/dirbucket",
		},
		{
			from: []string{"..."}, except: []string{"internal/retry"}, tests: true, deny: []string{"github.com/cenkalti/backoff/..."},
			why: "backoff has sharp edges (it retries a cancellation and drops the last error): internal/retry knows them, once",
		},
		{
			from: []string{"..."}, tests: true, allow: []string{
				"std", "./...", "github.com/cenkalti/backoff/v4", "github.com/google/go-cmp/...", "github.com/hashicorp/go-hclog",
				"github.com/klauspost/compress/...", "github.com/zeebo/blake3", "gocloud.dev/...",
				"golang.org/x/crypto/...", "golang.org/x/sync/...", "golang.org/x/sys/...",
			},
			why: "a dependency of the root module is a dependency of every embedder: a new one is a decision of its own and goes into this list",
		},
	}
}

// testRules keep test code out of what ships.
func testRules() []rule {
	return []rule{
		{
			from: []string{"..."}, except: []string{"testkit"},
			deny: []string{"testing/...", "net/http/httptest", "github.com/google/go-cmp/...", "gocloud.dev/blob/drivertest"},
			why:  "test code never ships: helpers live in _test.go files and in packages whose name ends in test",
		},
		{
			from: []string{"..."}, except: []string{"testkit"}, deny: []string{"testkit"},
			why: "packages whose name ends in test are for tests alone, they link package testing",
		},
		{
			from: []string{"examples/..."}, tests: true, deny: []string{"./internal/..."},
			why: "an example shows what any user can write; users cannot import internal packages",
		},
	}
}

// importName returns the name of an import in a rule.
func importName(imp string) string {
	switch rest, own := strings.CutPrefix(imp, modulePath+"/"); {
	case own:
		return "./" + rest
	case imp == modulePath:
		return "."
	}
	return imp
}

// matches reports whether an import name, or a directory, is covered by a
// pattern of a rule.
func matches(pattern, name string) bool {
	dir, own := strings.CutPrefix(name, "./")
	own = own || name == "."
	switch pattern {
	case "std":
		first, _, _ := strings.Cut(name, "/")
		return !own && !strings.Contains(first, ".")
	case "public":
		return own && isPublic(dir)
	case "testkit":
		return own && isTestKit(dir)
	case "./...":
		return own
	}
	prefix, ok := strings.CutSuffix(pattern, "/...")
	return name == pattern || ok && (name == prefix || strings.HasPrefix(name, prefix+"/"))
}

// covers reports whether any pattern matches.
func covers(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// applies reports whether the rule speaks about the file.
func (r *rule) applies(s *source) bool {
	if s.isTest() && !r.tests {
		return false
	}
	dir := s.dir()
	if slices.ContainsFunc(r.except, func(p string) bool {
		return p == "testkit" && isTestKit(dir) || matches(p, dir)
	}) {
		return false
	}
	return s.module == "." && slices.Contains(r.from, "...") || covers(r.from, dir)
}

// checkImports returns what the file imports against the rules.
func checkImports(rules []rule, s *source) []string {
	var bad []string
	for _, spec := range s.file.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: import %s: %v", s.at(spec), spec.Path.Value, err))
			continue
		}
		name := importName(imp)
		if dir, own := strings.CutPrefix(name, "./"); own && dir == s.dir() || name == "." && s.dir() == "." {
			continue // an external test imports its own package
		}
		for _, r := range rules {
			if r.applies(s) && (covers(r.deny, name) || r.allow != nil && !covers(r.allow, name)) {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", s.at(spec), imp, r.why))
			}
		}
	}
	return bad
}

func TestImportDirections(t *testing.T) {
	t.Parallel()
	all := rules()
	for _, s := range repository(t).sources {
		for _, bad := range checkImports(all, s) {
			t.Error(bad)
		}
	}
}

// TestImportRulesBite proves that each rule refuses what it is there for.
func TestImportRulesBite(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file, imp string
		want      int // rules broken
	}{
		{"hooks/a.go", modulePath + "/snapshot", 2},
		{"hooks/a.go", modulePath + "/snapshotx", 1},
		{"hooks/a.go", modulePath + "/internal/durable", 0},
		{"hooks/a_test.go", modulePath + "/repo", 1},
		{"hooks/a_test.go", modulePath + "/hooks/hookstest", 0},
		{"hooks/a.go", modulePath + "/hooks/hookstest", 1},
		{"hooks/sqlite/a.go", modulePath + "/hooks", 0},
		{"hooks/sqlite/a.go", modulePath + "/hooks/command", 1},
		{"hooks/sqlite/a.go", "modernc.org/sqlite", 3},
		{"hooks/sqlite/a_test.go", "modernc.org/sqlite", 1},
		{"hooks/hookstest/a.go", "testing", 0},
		{"snapshot/btrfs/a.go", modulePath + "/snapshot", 1},
		{"snapshot/btrfs/a.go", modulePath + "/snapshot/driver", 0},
		{"snapshot/btrfs/a.go", "golang.org/x/sys/unix", 0},
		{"snapshot/driver/a.go", "github.com/hashicorp/go-hclog", 1},
		{"snapshot/snapshottest/a.go", modulePath + "/snapshot", 0},
		{"repo/a.go", "gocloud.dev/blob", 0},
		{"repo/a.go", "gocloud.dev/blob/fileblob", 1},
		{"repo/a.go", modulePath + "/restore", 1},
		{"repo/a_test.go", "gocloud.dev/blob/s3blob", 1},
		{"repo/dirbucket/a.go", modulePath + "/repo", 1},
		{"repo/dirbucket/a_test.go", modulePath + "/internal/realtest", 0},
		{"restore/a.go", modulePath + "/repo", 0},
		{"restore/a.go", modulePath, 1},
		{"restore/a.go", "gocloud.dev/blob", 1},
		{"restore/a_test.go", "gocloud.dev/blob/memblob", 0},
		{"internal/pack/a.go", modulePath + "/repo", 1},
		{"internal/pack/a.go", modulePath, 1},
		{"internal/pack/a.go", modulePath + "/internal/seal", 0},
		{"internal/pack/a.go", "testing", 1},
		{"internal/pack/a.go", "testing/iotest", 1},
		{"internal/pack/a.go", modulePath + "/internal/realtest", 1},
		{"internal/pack/a.go", "github.com/cenkalti/backoff/v4", 1},
		{"internal/retry/a.go", "github.com/cenkalti/backoff/v4", 0},
		{"internal/realtest/a.go", "testing", 0},
		{"protect.go", modulePath + "/restore", 0},
		{"protect.go", "gocloud.dev/blob", 2},
		{"protect.go", "k8s.io/client-go/kubernetes", 2},
		{"protect_test.go", modulePath, 0},
	}
	all := rules()
	for _, tt := range tests {
		s := mustParse(t, tt.file, fmt.Sprintf("package p\n\nimport _ %q\n", tt.imp))
		if bad := checkImports(all, s); len(bad) != tt.want {
			t.Errorf("%s importing %s broke %d rules, want %d:\n%s", tt.file, tt.imp, len(bad), tt.want, strings.Join(bad, "\n"))
		}
	}
	ex := mustParse(t, "examples/quickstart/main.go", "package main\n\nimport _ \""+modulePath+"/internal/durable\"\nimport _ \"modernc.org/sqlite\"\n")
	ex.module = "examples"
	if bad := checkImports(all, ex); len(bad) != 1 {
		t.Errorf("an example that imports an internal package broke %d rules, want 1: %v", len(bad), bad)
	}
}

// maxDepth is the longest chain of imports inside the module that a reader
// should have to follow.
const maxDepth = 6

func TestImportDepth(t *testing.T) {
	t.Parallel()
	graph := map[string][]string{}
	for dir, files := range repository(t).packages() {
		if isTestKit(dir) {
			continue
		}
		for _, s := range files {
			for _, spec := range s.file.Imports {
				if imp, err := strconv.Unquote(spec.Path.Value); err == nil && strings.HasPrefix(imp, modulePath) {
					graph[dir] = append(graph[dir], path.Clean(importName(imp)))
				}
			}
		}
	}
	chain := longestChain(graph)
	if len(chain)-1 > maxDepth {
		t.Errorf("import depth is %d, the budget %d: %s\nA deep chain is a design that nobody can hold in the head.",
			len(chain)-1, maxDepth, strings.Join(chain, " -> "))
	}
}

// longestChain returns the longest path of an acyclic graph.
func longestChain(graph map[string][]string) []string {
	memo := map[string][]string{}
	var from func(string) []string
	from = func(n string) []string {
		if c, ok := memo[n]; ok {
			return c
		}
		var tail []string
		for _, next := range graph[n] {
			if c := from(next); len(c) > len(tail) {
				tail = c
			}
		}
		memo[n] = append([]string{n}, tail...)
		return memo[n]
	}
	var best []string
	for n := range graph {
		if c := from(n); len(c) > len(best) {
			best = c
		}
	}
	return best
}

func TestLongestChain(t *testing.T) {
	t.Parallel()
	got := longestChain(map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"b"}, "d": nil})
	if diff := cmp.Diff([]string{"a", "c", "b", "d"}, got); diff != "" {
		t.Errorf("longest chain (-want +got):\n%s", diff)
	}
}
