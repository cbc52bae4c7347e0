// SPDX-License-Identifier: Apache-2.0

//go:build unix

package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
)

// treeOf commits a directory and opens the tree of it.
func treeOf(t *testing.T, r *repo.Repository, id, dir string) *repo.Tree {
	t.Helper()
	p := write(t, r, id, dir)
	tree, err := r.Tree(t.Context(), p, p.Volumes[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestDiff(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	dir := t.TempDir()
	for i := range 300 {
		put(t, dir, fmt.Sprintf("many/%03d", i), bytes.Repeat([]byte("x"), i))
	}
	for _, name := range []string{"touched", "mode", "edited", "gone", "sub/deep/gone", "type"} {
		put(t, dir, name, []byte("content of "+name))
	}
	put(t, dir, "large", []byte(strings.Repeat("large", 100_000)))
	put(t, dir, "large-touched", []byte(strings.Repeat("large too", 100_000)))
	before := treeOf(t, r, "before", dir)

	when := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, err := range []error{
		os.Chtimes(filepath.Join(dir, "touched"), when, when),
		os.Chtimes(filepath.Join(dir, "large-touched"), when, when),
		os.Chmod(filepath.Join(dir, "mode"), 0o640),
		os.RemoveAll(filepath.Join(dir, "sub")),
		os.Remove(filepath.Join(dir, "gone")),
		os.Remove(filepath.Join(dir, "type")),
		os.Symlink("edited", filepath.Join(dir, "type")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "edited", []byte("Content of edited"))
	put(t, dir, "new/file", []byte("new"))
	put(t, dir, "large", []byte(strings.Repeat("large", 99_999)+"LARGE"))
	after := treeOf(t, r, "after", dir)

	describe := func(a, b *repo.Tree) map[string]string {
		got := map[string]string{}
		for c, err := range a.Diff(t.Context(), b) {
			if err != nil {
				t.Fatal(err)
			}
			what := "changed"
			switch {
			case c.Old == nil:
				what = "added"
			case c.New == nil:
				what = "removed"
			case !c.Content:
				what = "metadata"
			}
			got[c.Path] = what
		}
		return got
	}
	want := map[string]string{
		".": "metadata", "touched": "metadata", "large-touched": "metadata", "mode": "metadata", "edited": "changed",
		"gone": "removed", "sub": "removed", "sub/deep": "removed", "sub/deep/gone": "removed", "type": "changed",
		"new": "added", "new/file": "added", "large": "changed",
	}
	if diff := cmp.Diff(want, describe(before, after)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if got := describe(after, after); len(got) != 0 {
		t.Errorf("a tree differs from itself: %v", got)
	}
	other, _ := newRepo(t)
	for _, err := range before.Diff(t.Context(), treeOf(t, other, "after", dir)) {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("trees of two repositories: %v", err)
		}
	}
}

func TestChildren(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	dir := t.TempDir()
	for _, name := range []string{"a/x", "a/y/z", "a-b", "a\x01", "b", "c/d/e/f", "\x01", "z"} {
		put(t, dir, name, []byte(name))
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	tree := treeOf(t, r, "one", dir)
	for path, want := range map[string][]string{
		".":     {"\x01", "a", "a\x01", "a-b", "b", "c", "empty", "z"},
		"a":     {"a/x", "a/y"},
		"a/y":   {"a/y/z"},
		"c":     {"c/d"},
		"empty": nil,
	} {
		var got []string
		for e, err := range tree.Children(t.Context(), path) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Path)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", path, diff)
		}
	}
	for path, want := range map[string]error{"b": fs.ErrInvalid, "nothing": fs.ErrNotExist, "../x": fs.ErrInvalid} {
		for _, err := range tree.Children(t.Context(), path) {
			if !errors.Is(err, want) {
				t.Errorf("%q: %v", path, err)
			}
		}
	}
}
