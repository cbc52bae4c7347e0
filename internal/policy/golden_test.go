// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "accept the present state of the reviewed files under testdata")

// goldenName returns the file of a package in a set of reviewed files.
func goldenName(set, dir string) string {
	return filepath.Join("testdata", set, filepath.FromSlash(title(dir))+".txt")
}

// title returns what people call the package in dir.
func title(dir string) string {
	if dir == "." {
		return "protect"
	}
	return dir
}

// checkGolden compares got with the reviewed file, or writes it under -update.
func checkGolden(t *testing.T, set, dir, got, why string) {
	t.Helper()
	name := goldenName(set, dir)
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v\nA new public package needs a reviewed file: go test ./internal/policy -update", err)
	}
	if diff := cmp.Diff(splitLines(string(want)), splitLines(got)); diff != "" {
		t.Errorf("%s differs from the code (-reviewed +now):\n%s\n%s\nIf the change is meant: go test ./internal/policy -update",
			name, diff, why)
	}
}

// splitLines ignores how a checkout ends its lines.
func splitLines(s string) []string {
	return strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
}

// checkNoOrphans finds reviewed files of packages that are gone, and removes
// them under -update.
func checkNoOrphans(t *testing.T, set string, dirs []string) {
	t.Helper()
	var want []string
	for _, dir := range dirs {
		want = append(want, goldenName(set, dir))
	}
	err := filepath.WalkDir(filepath.Join("testdata", set), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || slices.Contains(want, name) {
			return err
		}
		if *update {
			return os.Remove(name)
		}
		t.Errorf("%s describes no public package: go test ./internal/policy -update removes it", name)
		return nil
	})
	switch {
	case err == nil, *update && errors.Is(err, fs.ErrNotExist):
	default:
		t.Errorf("%v\nCreate the reviewed files: go test ./internal/policy -update", err)
	}
}
