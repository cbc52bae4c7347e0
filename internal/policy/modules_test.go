// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goMod is the part of go mod edit -json, and of go work edit -json, that the
// rules look at.
type goMod struct {
	Module  struct{ Path string }
	Go      string
	Require []struct{ Path, Version string }
	Replace []struct {
		Old struct{ Path string }
		New struct{ Path string }
	}
	Exclude []json.RawMessage
	Use     []struct{ DiskPath string }
}

// foreign are the families of modules that would come with a version of their
// own for every embedder. The trailing slash is part of the name.
var foreign = map[string]string{
	"k8s.io/":                      "a require of client-go, even unused, raises the version that an operator has pinned; Kubernetes lives in the kube module",
	"sigs.k8s.io/":                 "Kubernetes lives in the kube module",
	"github.com/aws/":              "users bring their own *blob.Bucket; no cloud SDK in the root module",
	"github.com/Azure/":            "users bring their own *blob.Bucket; no cloud SDK in the root module",
	"cloud.google.com/":            "users bring their own *blob.Bucket; no cloud SDK in the root module",
	"github.com/minio/":            "users bring their own *blob.Bucket; no cloud SDK in the root module",
	"modernc.org/":                 "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
	"github.com/mattn/go-sqlite3/": "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
	"github.com/jackc/":            "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
	"github.com/lib/pq/":           "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
	"github.com/go-sql-driver/":    "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
	"github.com/redis/":            "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
	"go.mongodb.org/":              "hooks take a *sql.DB or an interface; database drivers live in examples and internal/integration",
}

// whyForeign returns why a module may not be required by the root module, or
// nothing.
func whyForeign(module string) string {
	for prefix, why := range foreign {
		if strings.HasPrefix(module+"/", prefix) {
			return why
		}
	}
	return ""
}

// readMod parses a go.mod or the go.work file.
func readMod(t *testing.T, verb, name string) *goMod {
	t.Helper()
	out, err := goTool(t.Context(), root, nil, verb, "edit", "-json", name)
	if err != nil {
		t.Fatal(err)
	}
	m := &goMod{}
	if err := json.Unmarshal(out, m); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func TestWorkspace(t *testing.T) {
	t.Parallel()
	modules := repository(t).modules
	work := readMod(t, "work", "go.work")
	var used []string
	for _, u := range work.Use {
		used = append(used, path.Clean(u.DiskPath))
	}
	slices.Sort(used)
	if diff := cmp.Diff(modules, used); diff != "" {
		t.Errorf("go.work does not use exactly the modules of the tree, so that `go test work` would not test them all (-go.mod files +go.work):\n%s", diff)
	}
	for _, dir := range modules {
		m := readMod(t, "mod", path.Join(dir, "go.mod"))
		if m.Go != work.Go {
			t.Errorf("%s/go.mod says go %s, go.work says go %s: one floor for all", dir, m.Go, work.Go)
		}
		if m.Module.Path != importPath(dir) {
			t.Errorf("%s/go.mod names the module %s, want %s", dir, m.Module.Path, importPath(dir))
		}
		if dir != "." {
			checkNested(t, dir, m)
		}
	}
}

// checkNested makes sure that a nested module builds against the root module
// beside it, with and without the workspace.
func checkNested(t *testing.T, dir string, m *goMod) {
	t.Helper()
	up := path.Clean(strings.Repeat("../", strings.Count(dir, "/")+1))
	for _, r := range m.Replace {
		if r.Old.Path == modulePath && path.Clean(r.New.Path) == up {
			return
		}
	}
	t.Errorf("%s/go.mod lacks `replace %s => %s/`: it would build against a published root module", dir, modulePath, up)
}

func TestRootModule(t *testing.T) {
	t.Parallel()
	repository(t)
	m := readMod(t, "mod", "go.mod")
	if len(m.Replace)+len(m.Exclude) > 0 {
		t.Error("go.mod of the root module has replace or exclude lines: they do not reach embedders, who would build something else than we test")
	}
	for _, r := range m.Require {
		if why := whyForeign(r.Path); why != "" {
			t.Errorf("go.mod of the root module requires %s: %s", r.Path, why)
		}
	}
}

func TestForeignModules(t *testing.T) {
	t.Parallel()
	for module, want := range map[string]bool{
		"k8s.io/client-go":                  true,
		"github.com/aws/aws-sdk-go-v2":      true,
		"github.com/jackc/pgx/v5":           true,
		"github.com/lib/pq":                 true,
		"github.com/hashicorp/go-hclog":     false,
		"github.com/googleapis/gax-go/v2":   false,
		"github.com/redistribution/library": false,
	} {
		if got := whyForeign(module) != ""; got != want {
			t.Errorf("%s is foreign to the root module: %t, want %t", module, got, want)
		}
	}
}
