// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stringsOf returns the strings of a JSON array.
func stringsOf(v any) []string {
	out := []string{}
	for _, s := range v.([]any) {
		out = append(out, s.(string))
	}
	return out
}

// TestForget forgets by name and by policy, and frees what is forgotten.
func TestForget(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	for i := range 6 {
		w.write("data/a", strings.Repeat(fmt.Sprint(i), 100_000))
		w.ok(nil, "backup", "--id", fmt.Sprintf("p%d", i), w.path("data"))
	}
	w.ok(nil, "backup", "--id", "other", "--name", "other", w.path("data"))

	var o object
	w.json(&o, "forget", "p0", "--dry-run")
	if diff := cmp.Diff([]string{"decisions", "dry_run", "forgotten"}, keys(o)); diff != "" {
		t.Errorf("forget (-want +got):\n%s", diff)
	}
	if len(w.points()) != 7 {
		t.Errorf("a dry run forgot: %q", w.points())
	}
	o = nil
	w.json(&o, "forget", "p0", "p0")
	if got := stringsOf(o["forgotten"]); !slices.Equal(got, []string{"p0"}) || slices.Contains(w.points(), "p0") || o["dry_run"] != false {
		t.Errorf("forget: %v, left %q", o, w.points())
	}

	o = nil
	w.json(&o, "hold", "add", "p1", "--by", "case 4711")
	if diff := cmp.Diff(object{"id": "p1", "holders": []any{"case 4711"}}, o); diff != "" {
		t.Errorf("hold add (-want +got):\n%s", diff)
	}
	for _, dry := range []string{"--dry-run=false", "--dry-run"} {
		if stderr := w.fails(exitFailure, "forget", "p2", "p1", dry); !strings.Contains(stderr, `"p1"`) || !strings.Contains(stderr, "held") {
			t.Errorf("forget %s of a held point: %s", dry, stderr)
		}
	}

	policy := []string{"forget", "--keep-last", "2", "--max-share", "0.9"}
	o = nil
	w.json(&o, append(policy, "--dry-run")...)
	want := map[string]string{"p1": "held", "p2": "", "p3": "", "p4": "last 2 of 2", "p5": "last 1 of 2", "other": "last 1 of 2"}
	got := map[string]string{}
	for _, d := range o["decisions"].([]any) {
		d := d.(object)
		if diff := cmp.Diff([]string{"committed", "id", "keep", "name", "reasons"}, keys(d)); diff != "" {
			t.Errorf("decision (-want +got):\n%s", diff)
		}
		got[d["id"].(string)] = strings.Join(stringsOf(d["reasons"]), ",")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	if human := w.ok(nil, append(policy, "-n", "--name", "data")...); strings.Contains(human, "other") || !strings.Contains(human, "2 would be forgotten") {
		t.Errorf("forget: %s", human)
	}
	w.ok(nil, policy...)
	if diff := cmp.Diff([]string{"other", "p5", "p4", "p1"}, w.points()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	w.ok(nil, "hold", "remove", "p1", "--by", "case 4711")
	w.ok(nil, "forget", "p1")

	before := len(w.objects())
	o = nil
	w.json(&o, "gc", "--dry-run", "--max-delete", "1")
	if o["dry_run"] != true || o["points"] != 3.0 || len(w.objects()) != before {
		t.Errorf("gc --dry-run: %v, %d objects, %d before", o, len(w.objects()), before)
	}
	o = nil
	w.json(&o, "gc", "--max-delete", "1")
	if o["dry_run"] != false || o["deleted"].(float64) < 1 || o["bytes_freed"].(float64) < 1 {
		t.Errorf("gc: %v", o)
	}
	w.ok(nil, "verify", "--level", "full")
	w.ok(nil, "restore", "p5", w.path("out"))
}

// TestCopy makes a second repository of the same points.
func TestCopy(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", strings.Repeat("hello ", 50_000))
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.write("data/b", "b")
	w.ok(nil, "backup", "--id", "two", w.path("data"))
	w.write("second-password", "another\n")
	second := *w
	second.repo = "dir://" + w.path("second")
	second.ok(nil, "init", "--kdf", "fast", "--password-file", w.path("second-password"))
	to := []string{"copy", "--to", second.repo, "--to-password-file", w.path("second-password")}

	var o object
	w.json(&o, append(to, "one")...)
	if diff := cmp.Diff([]string{"bytes_new", "bytes_stored", "copied", "present"}, keys(o)); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
	if !slices.Equal(stringsOf(o["copied"]), []string{"one"}) || len(stringsOf(o["present"])) != 0 {
		t.Errorf("copy: %v", o)
	}
	if human := w.ok(nil, to...); !strings.Contains(human, "present  one\n") || !strings.Contains(human, "copied   two\n") {
		t.Errorf("copy: %s", human)
	}
	var a, b object
	w.json(&a, "show", "two")
	second.json(&b, "show", "two", "--password-file", w.path("second-password"))
	if b["origin"] == "" || a["origin"] != "" || a["committed"] != b["committed"] {
		t.Errorf("show: %v\ncopy: %v", a, b)
	}
	second.ok(nil, "restore", "two", w.path("out"), "--password-file", w.path("second-password"))
	if w.read("out/b") != "b" || w.read("out/a") != w.read("data/a") {
		t.Error("the copy has another content")
	}

	// A conflict does not keep others from being copied.
	second.ok(nil, "backup", "--id", "three", "--password-file", w.path("second-password"), w.path("data"))
	w.ok(nil, "backup", "--id", "three", w.path("data"))
	w.ok(nil, "backup", "--id", "four", w.path("data"))
	r := w.run(nil, append([]string{"--json"}, to...)...)
	if r.code != exitFailure || !strings.Contains(r.stdout, `"four"`) || !strings.Contains(r.stderr, `"three"`) {
		t.Errorf("a conflict: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if stderr := w.fails(exitFailure, "copy", "--to", "nowhere://bucket?token=hunter2"); strings.Contains(stderr, "hunter2") {
		t.Errorf("a secret of the target is shown: %s", stderr)
	}
}

// TestKeys adds, removes and rotates passwords.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.write("new", "new password\n")
	w.write("newer", "newer password\n")
	var added object
	w.json(&added, "key", "add", "--new-password-file", w.path("new"), "--kdf", "fast")
	if diff := cmp.Diff([]string{"id"}, keys(added)); diff != "" {
		t.Errorf("key add (-want +got):\n%s", diff)
	}
	var list []object
	w.json(&list, "key", "list", "--password-file", w.path("new"))
	if len(list) != 2 {
		t.Fatalf("key list: %v", list)
	}
	old := list[0]["id"]
	if old == added["id"] {
		old = list[1]["id"]
	}
	w.ok(nil, "key", "remove", old.(string))
	w.fails(exitFailure, "list")
	w.ok(nil, "list", "--password-file", w.path("new"))

	var rotated struct{ Keys []object }
	w.json(&rotated, "key", "rotate", "--password-file", w.path("new"), "--new-password-file", w.path("newer"), "--kdf", "fast")
	if len(rotated.Keys) != 1 {
		t.Errorf("key rotate: %v", rotated)
	}
	w.fails(exitFailure, "list", "--password-file", w.path("new"))
	w.ok(nil, "backup", "--id", "two", "--password-file", w.path("newer"), w.path("data"))
	w.ok(nil, "restore", "one", w.path("out"), "--password-file", w.path("newer"))
	w.ok(nil, "verify", "--data", "--password-file", w.path("newer"))
}

// TestHead notices that the repository was put back.
func TestHead(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	past := map[string][]byte{}
	for _, name := range w.objects() {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		past[name] = b
	}
	w.ok(nil, "backup", "--id", "two", w.path("data"))
	var o object
	w.json(&o, "head")
	if diff := cmp.Diff([]string{"head"}, keys(o)); diff != "" {
		t.Errorf("head (-want +got):\n%s", diff)
	}
	head := strings.TrimSpace(w.ok(nil, "head"))
	if head != o["head"] {
		t.Errorf("head %q, as JSON %q", head, o["head"])
	}
	w.write("head", head+"\n")
	w.ok(nil, "list", "--head", head)
	w.ok(nil, "list", "--head", "@"+w.path("head"))
	for _, name := range w.objects() {
		if past[name] == nil {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.ok(nil, "list")
	w.fails(exitDamage, "list", "--head", head)
	w.fails(exitDamage, "restore", "one", w.path("out"), "--head", "@"+w.path("head"))
}

// TestCacheDirectory is used, and may be deleted.
func TestCacheDirectory(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	cache := w.path("made/cache")
	for range 2 {
		w.ok(nil, "ls", "one", "--cache", cache)
		found := 0
		_ = filepath.WalkDir(cache, func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				found++
			}
			return nil
		})
		if found == 0 {
			t.Error("the cache is empty")
		}
		if err := os.RemoveAll(cache); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepair mends what it can, and says what it cannot.
func TestRepair(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", strings.Repeat("hello ", 50_000))
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	replica := w.path("replica")
	if err := os.CopyFS(replica, os.DirFS(w.path("repository"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range w.objects() {
		if strings.Contains(name, "pack") {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := w.run(nil, "--json", "repair")
	var res repairResult
	if err := json.Unmarshal([]byte(o.stdout), &res); err != nil || o.code != exitDamage {
		t.Fatalf("repair: exit status %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	if !slices.Equal(res.Points, []string{"one"}) || len(res.Condemned) == 0 || len(res.Damage) == 0 {
		t.Errorf("repair: %+v", res)
	}
	var got object
	w.json(&got, "repair", "--from", "dir://"+replica)
	if diff := cmp.Diff([]string{
		"chunks_fetched", "chunks_rescued", "condemned", "damage", "dry_run", "indexed", "points", "removed", "restored", "useless",
	}, keys(got)); diff != "" {
		t.Errorf("repair (-want +got):\n%s", diff)
	}
	if got["chunks_fetched"].(float64) < 1 {
		t.Errorf("repair from a replica: %v", got)
	}
	w.ok(nil, "restore", "one", w.path("out"))
	w.ok(nil, "verify", "--level", "full")
}

// TestParentAuto does not read files that look unchanged. Of clones that is by
// their modification times, which can be set back.
func TestParentAuto(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	old := time.Date(2020, 1, 1, 0, 0, 0, 1, time.UTC)
	write := func(name, content string) {
		t.Helper()
		if err := os.Chtimes(w.write(name, content), old, old); err != nil {
			t.Fatal(err)
		}
	}
	backup := func(id string, more ...string) {
		t.Helper()
		w.ok(nil, append([]string{"backup", "--id", id, "--snapshot", "reflink", w.path("data")}, more...)...)
	}
	write("data/a", "hello")
	write("data/b", "world")
	backup("one", "--parent", "auto")
	write("data/a", "HELLO")
	write("data/b", "world!")
	backup("two", "--parent", "auto")
	backup("three")
	for id, want := range map[string]string{"two": "hello world!", "three": "HELLO world!"} {
		if got := w.ok(nil, "dump", id, "a") + " " + w.ok(nil, "dump", id, "b"); got != want {
			t.Errorf("point %s holds %q, want %q", id, got, want)
		}
	}
	// Of the volume itself it is by change times, which cannot.
	w.ok(nil, "backup", "--id", "live", "--parent", "auto", w.path("data"))
	if got := w.ok(nil, "dump", "live", "a"); got != "HELLO" {
		t.Errorf("the live point holds %q", got)
	}
}
