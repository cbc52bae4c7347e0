// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// keys returns the names of an object's members.
func keys(o object) []string { return slices.Sorted(maps.Keys(o)) }

// TestJSON is the contract that programs rely on: members may be added, never
// renamed or removed.
func TestJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("data/a", "hello")
	w.write("data/sub/b", "world")

	var o object
	w.json(&o, "init", "--kdf", "fast")
	if diff := cmp.Diff([]string{"atomic_create", "id"}, keys(o)); diff != "" {
		t.Errorf("init (-want +got):\n%s", diff)
	}

	o = nil
	w.json(&o, "backup", "--id", "one", w.path("data"))
	if diff := cmp.Diff([]string{
		"bytes", "bytes_new", "bytes_stored", "committed", "dirs", "doubts", "elapsed_ms", "files", "frozen_ms", "id", "level", "name", "origin",
		"skipped", "time",
	}, keys(o)); diff != "" {
		t.Errorf("backup (-want +got):\n%s", diff)
	}
	for k, want := range map[string]any{"id": "one", "name": "data", "level": "none", "files": 2.0, "dirs": 2.0, "bytes": 10.0, "frozen_ms": 0.0} {
		if o[k] != want {
			t.Errorf("backup: %s is %v, want %v", k, o[k], want)
		}
	}
	if o["bytes_stored"].(float64) <= 0 {
		t.Errorf("backup: bytes_stored is %v", o["bytes_stored"])
	}
	if at, err := time.Parse(time.RFC3339, o["time"].(string)); err != nil || time.Since(at) > time.Hour {
		t.Errorf("backup: time %v: %v", o["time"], err)
	}

	w.ok(nil, "backup", "--id", "two", "--name", "other", w.path("data"))
	var list []object
	w.json(&list, "list")
	if len(list) != 2 || list[0]["id"] != "two" || list[1]["id"] != "one" || list[1]["name"] != "data" {
		t.Errorf("list: %v", list)
	}
	if diff := cmp.Diff([]string{"bytes", "bytes_new", "bytes_stored", "committed", "dirs", "files", "id", "level", "name", "origin", "time"}, keys(list[0])); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}

	o = nil
	w.json(&o, "show", "one")
	if diff := cmp.Diff([]string{
		"bytes", "bytes_new", "bytes_stored", "chunks_new", "committed", "dirs", "doubts", "evidence", "files", "frozen_ms", "id", "labels", "level",
		"name", "origin", "packs", "skew_ms", "time", "volumes",
	}, keys(o)); diff != "" {
		t.Errorf("show (-want +got):\n%s", diff)
	}

	o = nil
	w.json(&o, "restore", "one", w.path("out"))
	if diff := cmp.Diff([]string{"bytes", "dirs", "elapsed_ms", "failed", "failed_total", "files", "id", "skipped", "skipped_total", "target"}, keys(o)); diff != "" {
		t.Errorf("restore (-want +got):\n%s", diff)
	}
	if o["files"] != 2.0 || o["bytes"] != 10.0 || o["target"] != w.path("out") {
		t.Errorf("restore: %v", o)
	}

	o = nil
	w.json(&o, "verify", "--data")
	if diff := cmp.Diff([]string{"bytes", "damage", "level", "objects", "packs", "points", "unindexed", "unknown"}, keys(o)); diff != "" {
		t.Errorf("verify (-want +got):\n%s", diff)
	}
	if o["points"] != 2.0 || len(o["damage"].([]any)) != 0 {
		t.Errorf("verify: %v", o)
	}

	o = nil
	w.json(&o, "stats")
	if diff := cmp.Diff([]string{"bytes", "bytes_stored", "chunks", "dedup_ratio", "objects", "packs", "points", "sessions"}, keys(o)); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	if o["points"] != 2.0 || o["bytes"] != 20.0 {
		t.Errorf("stats: %v", o)
	}
}

// TestEmptyList is an array, not null.
func TestEmptyList(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	if out := strings.TrimSpace(w.ok(nil, "--json", "list")); out != "[]" {
		t.Errorf("list --json of an empty repository: %q", out)
	}
}

// TestHuman makes sure that people see something too, and nothing on stderr.
func TestHuman(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"backup", "--id", "one", w.path("data")}, "one"},
		{[]string{"list"}, "one"},
		{[]string{"show", "one"}, "data: 5 B in 1 files"},
		{[]string{"restore", "one", w.path("out")}, w.path("out")},
		{[]string{"verify", "--data"}, "no damage"},
		{[]string{"stats"}, "recovery points"},
		{[]string{"verify", "--level", "data", "--budget", "1MB"}, "no damage"},
		{[]string{"repair"}, "no damage left"},
		{[]string{"hold", "add", "one", "--by", "me"}, "is held by me"},
		{[]string{"hold", "remove", "one", "--by", "me"}, "is held by nobody"},
		{[]string{"hold", "list", "one"}, "nobody"},
		{[]string{"forget", "--keep-last", "3"}, "last 1 of 3"},
		{[]string{"forget", "-n", "one"}, "1 would be forgotten"},
		{[]string{"gc"}, "1 recovery points kept"},
		{[]string{"key", "list"}, "passphrase"},
		{[]string{"head"}, "1:"},
		{[]string{"--help"}, "restore"},
	} {
		o := w.run(nil, tc.args...)
		if o.code != exitOK || !strings.Contains(o.stdout, tc.want) || o.stderr != "" {
			t.Errorf("protectctl %q: exit status %d, stdout %q, stderr %q", tc.args, o.code, o.stdout, o.stderr)
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.write("full/file", "")
	w.write("empty-password", "\n")
	w.write("password", "wrong\n")
	data := w.path("data")
	for _, id := range []string{"one", "other-1", "other-2"} {
		w.ok(nil, "backup", "--id", id, data)
	}
	for name, args := range map[string][]string{
		"no command":             {},
		"unknown command":        {"explode"},
		"unknown flag":           {"list", "--explode"},
		"init twice":             {"init"},
		"bad kdf":                {"init", "--kdf", "none"},
		"no paths":               {"backup"},
		"missing path":           {"backup", w.path("missing")},
		"path given twice":       {"backup", data, data},
		"stdin given twice":      {"backup", "-", "-"},
		"held alone":             {"backup", "--held", "true", data},
		"hold and pair":          {"backup", "--hold", "cat", "--freeze", "true", "--thaw", "true", data},
		"freeze alone":           {"backup", "--freeze", "true", data},
		"stdin held":             {"backup", "--hold", "cat", "-"},
		"live held":              {"backup", "--hold", "cat", "--snapshot", "live", data},
		"hold not found":         {"backup", "--hold", "/no/such/program", data},
		"hold not quoted":        {"backup", "--hold", "'x", data},
		"hold without READY":     {"backup", "--hold", "true", data},
		"window too long":        {"backup", "--hold", "cat", "--window", "2m", data},
		"negative window":        {"backup", "--window", "-1s", data},
		"unknown level":          {"backup", "--require", "best", data},
		"level not reached":      {"backup", "--require", "crash-single", data},
		"stdin level":            {"backup", "--require", "application", "-"},
		"unknown snapshot":       {"backup", "--snapshot", "lvm", data},
		"reserved id":            {"backup", "--id", "latest", data},
		"unknown parent":         {"backup", "--parent", "one", data},
		"unknown level of depth": {"verify", "--level", "deep"},
		"two levels":             {"verify", "--level", "data", "--data"},
		"budget without level":   {"verify", "--budget", "1GB"},
		"budget of nothing":      {"verify", "--level", "data", "--budget", "0"},
		"forget nothing":         {"forget"},
		"forget all":             {"forget", "--min-points", "3"},
		"forget unknown":         {"forget", "one", "nothing"},
		"forget ambiguous":       {"forget", "other"},
		"points and policy":      {"forget", "one", "--keep-last", "3"},
		"negative policy":        {"forget", "--keep-last", "3", "--keep-daily", "-1"},
		"policy without unit":    {"forget", "--keep-within", "30"},
		"share above all":        {"forget", "--keep-last", "1", "--max-share", "2"},
		"share of nothing":       {"forget", "--keep-last", "1", "--max-share", "0"},
		"too many at once":       {"forget", "--keep-last", "1"},
		"hold without holder":    {"hold", "add", "one"},
		"hold nothing":           {"hold", "add", "nothing", "--by", "me"},
		"hold alone":             {"hold"},
		"key alone":              {"key"},
		"key not there":          {"key", "remove", "0123456789abcdef"},
		"key of no form":         {"key", "remove", "../x"},
		"key without password":   {"key", "add"},
		"key with an empty one":  {"key", "add", "--new-password-file", w.path("empty-password")},
		"key of unknown cost":    {"key", "rotate", "--kdf", "none"},
		"copy to nowhere":        {"copy", "one"},
		"copy to no repository":  {"copy", "--to", "dir://" + data},
		"copy unknown point":     {"copy", "--to", w.repo, "nothing"},
		"repair from nowhere":    {"repair", "--from", "dir://" + data},
		"remove what is needed":  {"repair", "--remove", "protect.repository"},
		"gc with a bad share":    {"gc", "--max-delete", "2"},
		"head of another form":   {"list", "--head", "x"},
		"head in no file":        {"list", "--head", "@" + w.path("missing")},
		"unknown point":          {"show", "nothing"},
		"unknown latest":         {"show", "latest:nothing"},
		"ambiguous point":        {"show", "other"},
		"empty point":            {"show", ""},
		"restore unknown point":  {"restore", "nothing", w.path("out")},
		"restore unknown path":   {"restore", "one", w.path("out"), "--path", "nothing"},
		"restore full target":    {"restore", "one", w.path("full")},
		"restore to a file":      {"restore", "one", w.path("full/file")},
		"restore to nothing":     {"restore", "one", ""},
		"wrong password":         {"list", "--password-file", w.path("password")},
		"empty password":         {"list", "--password-file", w.path("empty-password")},
		"missing password file":  {"list", "--password-file", w.path("missing")},
		"unknown scheme":         {"list", "--repo", "nowhere://bucket"},
		"no repository":          {"list", "--repo", "dir://" + data},
		"init in no directory":   {"init", "--repo", "dir://" + w.path("no/repository")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := *w
			sub.t = t
			if stderr := sub.fails(exitFailure, args...); strings.Contains(stderr, password) {
				t.Errorf("the password is on stderr: %s", stderr)
			}
		})
	}
	t.Cleanup(func() {
		if _, err := os.Stat(w.path("out")); err == nil {
			t.Error("a failed restore left its target")
		}
		if got := w.read("full/file"); got != "" {
			t.Errorf("a failed restore changed its target: %q", got)
		}
	})
}

// TestPasswordFile has the precedence over the variable, and loses its line
// end.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("password", password+"\r\n")
	for i, kv := range w.env {
		if strings.HasPrefix(kv, passwordVariable+"=") {
			w.env[i] = passwordVariable + "=wrong"
		}
	}
	w.fails(exitFailure, "list")
	w.ok(nil, "list", "--password-file", w.path("password"))
	w.env = slices.DeleteFunc(w.env, func(kv string) bool { return strings.HasPrefix(kv, passwordVariable+"=") })
	if stderr := w.fails(exitFailure, "list"); !strings.Contains(stderr, passwordVariable) {
		t.Errorf("without a password: %s", stderr)
	}
}

// TestSecretURL must not show what is in the query, nor a password, also of a URL
// that cannot be parsed.
func TestSecretURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"nowhere://bucket?token=hunter2%2F!&x=hunter2",
		"dir:///tmp/x?token=hunter2",
		"dir://user:hunter2@host/x",
		"s3://bucket?token=hunter2",
		"%zz://bucket?token=hunter2",
		"dir://user:hunter2%@host/x",
		"dir://user:hunter2\"\\@host:port/x",
		"dir://user:@hunter2%@host/x",
	} {
		w := newWorld(t)
		w.repo = url
		if stderr := w.fails(exitFailure, "list"); strings.Contains(stderr, "hunter2") {
			t.Errorf("%s: %s", url, stderr)
		}
	}
}

// TestSecretURLInLog is about what drivers say of calls that are tried again.
func TestSecretURLInLog(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	c := &cli{repository: "azblob://container?sig=hunter2", other: "s3://me:hunter2@bucket", stderr: &stderr}
	c.newLog(true)
	c.log.Warn("tried again", "error", errors.New("GET azblob://container?sig=hunter2, s3://me:hunter2@bucket: refused"))
	if got := stderr.String(); !strings.Contains(got, "refused") || strings.Contains(got, "hunter2") {
		t.Errorf("logged %q", got)
	}
}

// TestSelectPoint names points by identifier, prefix and age.
func TestSelectPoint(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	for _, id := range []string{"first", "second", "second-b"} {
		w.ok(nil, "backup", "--id", id, "--name", "n-"+id[:1], w.path("data"))
	}
	for arg, want := range map[string]string{
		"first": "first", "f": "first", "second": "second", "second-": "second-b", "latest": "second-b", "latest:n-f": "first",
	} {
		var o object
		w.json(&o, "show", arg)
		if o["id"] != want {
			t.Errorf("show %s: point %v, want %s", arg, o["id"], want)
		}
	}
}

// TestSameID does not take a point twice.
func TestSameID(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	first := w.ok(nil, "--json", "backup", "--id", "one", w.path("data"))
	w.write("data/b", "more")
	second := w.ok(nil, "--json", "backup", "--id", "one", w.path("data"))
	var a, b backupResult
	for text, v := range map[string]*backupResult{first: &a, second: &b} {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(a.pointResult, b.pointResult); diff != "" {
		t.Errorf("the second backup (-first +second):\n%s", diff)
	}
}

// TestNewIDs are different, and sort by time.
func TestNewIDs(t *testing.T) {
	t.Parallel()
	at := time.Now()
	a, b, c := newID(at), newID(at), newID(at.Add(time.Second))
	if a == b || a >= c || b >= c {
		t.Errorf("newID: %s, %s, %s", a, b, c)
	}
}
