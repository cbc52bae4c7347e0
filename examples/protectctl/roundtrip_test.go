// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/restore"
)

// tree describes a directory: modes, times, contents, links.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	firsts := map[string]fs.FileInfo{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%v %v", info.Mode(), info.ModTime().UnixNano())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += " -> " + target
			if runtime.GOOS != "linux" {
				s = target // their times are not restored
			}
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
			for first, o := range firsts {
				if os.SameFile(o, info) {
					s += " = " + first
				}
			}
			firsts[rel] = info
		}
		out[rel] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// plant makes a tree with something of everything.
func plant(t *testing.T, root string, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0)) // test data
	t.Logf("seed %d", seed)
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"", "empty", "sub/deep/er", "sub/private"} {
		must(os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for name, content := range map[string][]byte{
		"zero": nil, "small": []byte("small"), "large": random(5 << 20), "sub/twin": random(70_000),
		"sub/deep/er/script.sh": []byte("#!/bin/sh\n"), "sub/private/secret": random(100),
		"name with\nline end": []byte("x"), "ünïcödé": []byte("y"), "sub/zeros": make([]byte, 1<<20),
	} {
		must(os.WriteFile(filepath.Join(root, name), content, 0o644))
	}
	for i := range 300 {
		must(os.WriteFile(filepath.Join(root, fmt.Sprintf("sub/deep/%03d", i)), random(rng.IntN(3000)), 0o640))
	}
	must(os.Link(filepath.Join(root, "sub/twin"), filepath.Join(root, "twin")))
	must(os.Symlink("../nowhere", filepath.Join(root, "dangling")))
	must(os.Symlink("small", filepath.Join(root, "link")))
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	must(err)
	must(sparse.Truncate(16 << 20))
	_, err = sparse.WriteAt([]byte("island"), 9<<20)
	must(err)
	must(sparse.Close())
	for name, mode := range map[string]fs.FileMode{
		"sub/deep/er/script.sh": 0o755, "sub/private/secret": 0o400, "sub/private": 0o700, "empty": 0o555, "zero": 0o666,
	} {
		must(os.Chmod(filepath.Join(root, name), mode))
	}
	at := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	for _, name := range []string{"small", "sub/deep", "empty", "sub", "."} {
		must(os.Chtimes(filepath.Join(root, name), at, at))
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"live":    nil,
		"reflink": {"--snapshot", "reflink"},
		"held":    {"--hold", `sh -c "echo READY; exec cat"`, "--require", "application"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRepository(t)
			plant(t, w.path("data"), 1)
			before := tree(t, w.path("data"))
			w.ok(nil, append([]string{"backup", w.path("data")}, flags...)...)
			if diff := cmp.Diff(before, tree(t, w.path("data"))); diff != "" {
				t.Errorf("the backup changed the volume (-before +after):\n%s", diff)
			}
			w.ok(nil, "restore", "latest", w.path("out"))
			if diff := cmp.Diff(before, tree(t, w.path("out"))); diff != "" {
				t.Errorf("restored tree (-want +got):\n%s", diff)
			}
			w.staged(0)

			var again backupResult
			w.json(&again, append([]string{"backup", w.path("data")}, flags...)...)
			if again.BytesNew > 64<<10 {
				t.Errorf("a backup of what has not changed found %d new bytes", again.BytesNew)
			}
			w.ok(nil, "verify", "--data")
		})
	}
}

// staged checks how many staging directories there are.
func (w *world) staged(want int) {
	w.t.Helper()
	left, err := filepath.Glob(filepath.Join(w.dir, ".protectctl-*"))
	if err != nil {
		w.t.Fatal(err)
	}
	if len(left) != want {
		w.t.Errorf("%d staging directories, want %d: %q", len(left), want, left)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"live": nil,
		"held": {"--hold", `sh -c "echo READY; exec cat"`, "--require", "application"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRepository(t)
			file := w.write("data/disk.img", strings.Repeat("block", 1<<20))
			at := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
			w.ok(nil, append([]string{"backup", file}, flags...)...)
			w.ok(nil, "restore", "latest", w.path("out"))
			want, got := tree(t, w.path("data")), tree(t, w.path("out"))
			if diff := cmp.Diff(want["disk.img"], got["disk.img"]); diff != "" || len(got) != 2 {
				t.Errorf("restored file (-want +got):\n%s\n%v", diff, got)
			}
			var o object
			w.json(&o, "show", "latest")
			if o["name"] != "disk.img" {
				t.Errorf("the point is called %v", o["name"])
			}
		})
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	data := bytes.Repeat([]byte("a stream of bytes, "), 1<<18)
	w.ok(bytes.NewReader(data), "backup", "-")
	var o object
	w.json(&o, "show", "latest")
	if o["name"] != "stdin" || o["level"] != "none" || o["bytes"] != float64(len(data)) {
		t.Errorf("show: %v", o)
	}
	w.ok(nil, "restore", "latest", w.path("out"))
	if w.read("out/stdin") != string(data) {
		t.Error("the restored stream is another one")
	}
	w.write("data/a", "beside")
	w.ok(strings.NewReader("again"), "backup", "--name", "both", "-", w.path("data"))
	w.ok(nil, "restore", "latest:both", w.path("both"))
	if got := w.read("both/stdin") + w.read("both/data/a"); got != "againbeside" {
		t.Errorf("a stream and a folder came back as %q", got)
	}
}

// TestRestorePaths selects volumes and what is in them.
func TestRestorePaths(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("x/data/sub/a", "xa")
	w.write("x/data/data/inner", "xi")
	w.write("y/data/sub/a", "ya")
	w.write("file", "f")
	w.ok(nil, "backup", "--id", "single", w.path("x/data"))
	w.ok(nil, "backup", "--id", "multi", "--name", "all", w.path("x/data"), w.path("y/data"), w.path("file"))
	for i, tc := range []struct {
		point, path string
		want        map[string]string
	}{
		{"single", "", map[string]string{"sub/a": "xa", "data/inner": "xi"}},
		{"single", "sub", map[string]string{"a": "xa"}},
		{"single", "sub/a", map[string]string{"a": "xa"}},
		{"single", "data/sub/a", map[string]string{"a": "xa"}},     // with the volume's name
		{"single", "data/inner", map[string]string{"inner": "xi"}}, // without comes first
		{"multi", "", map[string]string{"data/sub/a": "xa", "data-2/sub/a": "ya", "data/data/inner": "xi", "file": "f"}},
		{"multi", "data-2", map[string]string{"sub/a": "ya"}},
		{"multi", "/data-2/sub/", map[string]string{"a": "ya"}},
		{"multi", "file", map[string]string{"file": "f"}},
	} {
		out := fmt.Sprintf("out%d", i)
		args := []string{"restore", tc.point, w.path(out)}
		if tc.path != "" {
			args = append(args, "--path", tc.path)
		}
		w.ok(nil, args...)
		got := map[string]string{}
		for name := range tree(t, w.path(out)) {
			if info, err := os.Stat(w.path(out, name)); err == nil && !info.IsDir() {
				got[name] = w.read(filepath.Join(out, name))
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s --path %q (-want +got):\n%s", tc.point, tc.path, diff)
		}
	}
	for _, path := range []string{"sub", "nothing", "data/nothing"} {
		w.fails(exitFailure, "restore", "multi", w.path("no"), "--path", path)
	}
	// An empty target is fine, and what a killed restore left goes away.
	left := ".protect-restore-" + strings.Repeat("a", 26)
	if !restore.IsStaging(left) {
		t.Fatalf("%s is not what a restore leaves", left)
	}
	for _, dir := range []string{"made", left} {
		if err := os.Mkdir(w.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.ok(nil, "restore", "single", w.path("made"))
	if _, err := os.Stat(w.path(left)); err == nil {
		t.Error("what a killed restore left is still there")
	}
}

func TestVolumeNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("a/data/f", "")
	w.write("b/data/f", "")
	w.write("data-2/f", "")
	if err := os.Symlink("a/data", w.path("link")); err != nil {
		t.Fatal(err)
	}
	vols, stream, err := volumes([]string{w.path("a/data"), w.path("b/data"), w.path("data-2"), "-", "/"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range vols {
		names = append(names, v.Name)
	}
	if diff := cmp.Diff([]string{"data", "data-2", "data-2-2", "root"}, names); diff != "" || stream != "stdin" {
		t.Errorf("volume names (-want +got):\n%s\nstream %q", diff, stream)
	}
	vols, _, err = volumes([]string{w.path("link")})
	if err != nil || vols[0].Name != "link" || filepath.Base(string(vols[0].ID)) != "data" {
		t.Errorf("volume of a link: %v, %v", vols, err)
	}
	if got := baseName("a\xff/b\xff"); got != "b_" {
		t.Errorf("baseName of a name that is not UTF-8: %q", got)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"plain": "plain", "ünï": "ünï", "\x1b[2J": `"\x1b[2J"`, "a\nb": `"a\nb"`} {
		if got := text(in); got != want {
			t.Errorf("text(%q) = %s, want %s", in, got, want)
		}
	}
}
