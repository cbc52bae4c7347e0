// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// paths returns VOLUME/path of listed entries, or of changes with their kind.
func paths(list []any) []string {
	var out []string
	for _, e := range list {
		o := e.(object)
		s := o["volume"].(string) + "/" + o["path"].(string)
		if kind, ok := o["change"].(string); ok {
			s = kind + " " + s
		}
		out = append(out, s)
	}
	return out
}

// TestLook reads recovery points without restoring them.
func TestLook(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.write("data/sub/b", "world")
	w.write("data/sub/deep/c", "!")
	w.write("more/x", "x")
	w.write("more/empty", "")
	if err := os.Symlink("a", w.path("data/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(w.path("data/a"), w.path("data/z")); err != nil {
		t.Fatal(err)
	}
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.ok(nil, "backup", "--id", "two", w.path("data"), w.path("more"))
	w.write("data/a", "HELLO")
	w.write("data/new", "new")
	if err := os.RemoveAll(w.path("data/sub/deep")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(w.path("data/sub/b"), 0o640); err != nil {
		t.Fatal(err)
	}
	w.ok(nil, "backup", "--id", "three", w.path("data"))

	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"ls", "one"}, []string{"data/a", "data/link", "data/sub", "data/z"}},
		{[]string{"ls", "one", "sub"}, []string{"data/sub/b", "data/sub/deep"}},
		{[]string{"ls", "one", "data/sub/"}, []string{"data/sub/b", "data/sub/deep"}},
		{[]string{"ls", "one", "sub", "-R"}, []string{"data/sub/b", "data/sub/deep", "data/sub/deep/c"}},
		{[]string{"ls", "one", "a"}, []string{"data/a"}},
		{[]string{"ls", "two"}, []string{"data/.", "more/."}},
		{[]string{"ls", "two", "more"}, []string{"more/empty", "more/x"}},
		{[]string{"ls", "-R", "two"}, []string{
			"data/.", "data/a", "data/link", "data/sub", "data/sub/b", "data/sub/deep", "data/sub/deep/c", "data/z",
			"more/.", "more/empty", "more/x",
		}},
	} {
		var list []any
		w.json(&list, tc.args...)
		if diff := cmp.Diff(tc.want, paths(list)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.args, diff)
		}
		if human := w.ok(nil, tc.args...); strings.Count(human, "\n") != len(tc.want) {
			t.Errorf("%q: %s", tc.args, human)
		}
	}

	var o object
	w.json(&o, "diff", "one", "three")
	want := []string{
		"metadata data/.", "modified data/a", "added data/new", "metadata data/sub", "metadata data/sub/b",
		"removed data/sub/deep", "removed data/sub/deep/c", "metadata data/z",
	}
	if diff := cmp.Diff(want, paths(o["changes"].([]any))); diff != "" {
		t.Errorf("diff (-want +got):\n%s", diff)
	}
	if o["added"] != 1.0 || o["removed"] != 2.0 || o["modified"] != 1.0 || o["metadata"] != 4.0 {
		t.Errorf("diff: %v", o)
	}
	o = nil
	w.json(&o, "diff", "two", "one")
	if diff := cmp.Diff([]string{"removed more/."}, paths(o["changes"].([]any))); diff != "" {
		t.Errorf("diff of volumes (-want +got):\n%s", diff)
	}
	if human := w.ok(nil, "diff", "one", "three"); !strings.Contains(human, "+ data/new  3 B\n") || !strings.Contains(human, "- data/sub/deep/\n") {
		t.Errorf("diff: %s", human)
	}

	for _, tc := range [][3]string{{"one", "a", "hello"}, {"one", "z", "hello"}, {"three", "a", "HELLO"}, {"two", "more/empty", ""}, {"one", "data/sub/b", "world"}} {
		if got := w.ok(nil, "dump", tc[0], tc[1]); got != tc[2] {
			t.Errorf("dump %s %s: %q", tc[0], tc[1], got)
		}
		o = nil
		w.json(&o, "dump", tc[0], tc[1])
		if o["content"] != base64.StdEncoding.EncodeToString([]byte(tc[2])) || o["size"] != float64(len(tc[2])) {
			t.Errorf("dump --json %s %s: %v", tc[0], tc[1], o)
		}
	}
	for _, args := range [][]string{
		{"dump", "one", "sub"},
		{"dump", "one", "link"},
		{"dump", "one", "nothing"},
		{"dump", "two", "a"},
		{"dump", "one"},
		{"ls", "nothing"},
		{"ls", "one", "nothing"},
		{"ls", "two", "a"},
		{"diff", "one"},
		{"diff", "one", "nothing"},
		{"diff", "nothing", "one"},
	} {
		w.fails(exitFailure, args...)
	}
}

// TestLookHostile shows names that could drive a terminal, and names that JSON
// cannot hold.
func TestLookHostile(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	const name = "\x1b[2J\xff\n"
	w.write("data/a", "")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.write("data/"+name, "x")
	if err := os.Symlink(name, w.path("data", "z")); err != nil {
		t.Fatal(err)
	}
	w.ok(nil, "backup", "--id", "two", w.path("data"))
	for _, args := range [][]string{{"ls", "two"}, {"diff", "one", "two"}} {
		if out := w.ok(nil, args...); strings.Contains(out, "\x1b") || strings.Contains(out, "\xff") || !strings.Contains(out, `\x1b[2J\xff\n"`) {
			t.Errorf("%q: %q", args, out)
		}
	}
	var list []object
	w.json(&list, "ls", "two")
	var d struct{ Changes []object }
	w.json(&d, "diff", "one", "two")
	for _, raw := range []any{list[0]["path_base64"], d.Changes[1]["path_base64"], list[2]["target_base64"]} {
		s, _ := raw.(string)
		if b, err := base64.StdEncoding.DecodeString(s); err != nil || string(b) != name {
			t.Errorf("%q, of %v and %v", s, list, d)
		}
	}
	if got := w.ok(nil, "dump", "two", name); got != "x" {
		t.Errorf("dump: %q", got)
	}
}
