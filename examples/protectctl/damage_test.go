// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// objects returns the paths of the repository's objects.
func (w *world) objects() []string {
	w.t.Helper()
	var out []string
	err := filepath.WalkDir(w.path("repository"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(p, "/.tmp/") {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// TestDamage flips bits and expects the exit status that says so.
func TestDamage(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", strings.Repeat("hello ", 1000))
	w.write("data/b", "world")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	objects := w.objects()
	if len(objects) < 4 {
		t.Fatalf("only %d objects: %q", len(objects), objects)
	}
	for _, name := range objects {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(whole) / 3, len(whole) / 2, len(whole) - 1} {
			b := append([]byte{}, whole...)
			b[at] ^= 0x10
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			stderr := w.fails(exitDamage, "verify", "--data")
			if !strings.Contains(stderr, "damaged") {
				t.Errorf("%s at %d: %s", name, at, stderr)
			}
		}
		if err := os.WriteFile(name, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.ok(nil, "verify", "--data")
}

// TestLostHeader works by the copy of the header, says so, and repairs it.
func TestLostHeader(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.fails(exitFailure, "repair", "--remove", "protect.header-copy")
	for _, object := range []string{"protect.repository", "protect.header-copy"} {
		name := filepath.Join(w.path("repository"), object)
		for _, harm := range []func() error{
			func() error { return os.Remove(name) },
			func() error { return os.Truncate(name, 10) },
		} {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			o := w.run(nil, "show", "one")
			if o.code != 0 || strings.Contains(o.stderr, "damaged or missing") != (object == "protect.repository") {
				t.Errorf("show: exit status %d, %s", o.code, o.stderr)
			}
			w.ok(nil, "backup", w.path("data"))
			if stderr := w.fails(exitDamage, "verify"); !strings.Contains(stderr, "damaged") {
				t.Errorf("verify: %s", stderr)
			}
			if o := w.run(nil, "repair"); o.code != 0 || !strings.Contains(o.stdout, "stored again: "+object+"\n") {
				t.Errorf("repair: exit status %d\n%s%s", o.code, o.stdout, o.stderr)
			}
			w.ok(nil, "verify", "--data")
		}
	}
}

// TestDamagedData says what is affected, and the restore refuses it.
func TestDamagedData(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", strings.Repeat("hello ", 1000))
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	for _, name := range w.objects() {
		if strings.Contains(name, "pack") {
			if err := os.Truncate(name, 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := w.run(nil, "--json", "verify")
	var res verifyResult
	if err := json.Unmarshal([]byte(o.stdout), &res); err != nil || o.code != exitDamage {
		t.Fatalf("verify: exit status %d, %v\n%s", o.code, err, o.stderr)
	}
	if len(res.Damage) == 0 || !strings.Contains(o.stdout, "one") {
		t.Errorf("verify: %s", o.stdout)
	}
	if o := w.run(nil, "verify"); !strings.Contains(o.stdout, "DAMAGED") || !strings.Contains(o.stdout, "affects") {
		t.Errorf("verify: %s", o.stdout)
	}
	w.fails(exitDamage, "restore", "one", w.path("out"))
	if _, err := os.Stat(w.path("out")); err == nil {
		t.Error("a restore of damaged data made its target")
	}
}

// TestDamagedRecord lists the other points.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	before := w.objects()
	w.ok(nil, "backup", "--id", "two", w.path("data"))
	for _, name := range w.objects() {
		if strings.Contains(name, "point") && !strings.Contains(strings.Join(before, "\n"), name) {
			if err := os.Truncate(name, 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := w.run(nil, "--json", "list")
	var list []object
	if err := json.Unmarshal([]byte(o.stdout), &list); err != nil || o.code != exitDamage || len(list) != 1 || list[0]["id"] != "one" {
		t.Errorf("list: exit status %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	if o := w.run(nil, "show", "one"); o.code != 0 || !strings.Contains(o.stdout, "data: 5 B") {
		t.Errorf("show one: exit status %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	var stats object
	o = w.run(nil, "--json", "stats")
	if err := json.Unmarshal([]byte(o.stdout), &stats); err != nil || o.code != exitDamage || stats["points"] != 1.0 {
		t.Errorf("stats: exit status %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	w.fails(exitDamage, "show", "two")
	w.fails(exitDamage, "show", "latest")
	w.ok(nil, "restore", "one", w.path("out"))
}

// TestLostPacks does not take a path that cannot be looked up for one that is not
// there.
func TestLostPacks(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/a", "hello")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	for _, name := range w.objects() {
		if strings.Contains(name, "pack") {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.fails(exitDamage, "ls", "one", "a")
	w.fails(exitDamage, "dump", "one", "a")
	w.fails(exitDamage, "restore", "one", w.path("out"), "--path", "a")
}

// TestPartial restores what can be read, says what cannot, and that it is not all.
func TestPartial(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/large", strings.Repeat("0123456789", 300_000))
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.write("data/small", "hello")
	before := w.objects()
	w.ok(nil, "backup", "--id", "two", w.path("data"))
	if err := os.Remove(largest(t, before)); err != nil {
		t.Fatal(err)
	}
	w.fails(exitDamage, "restore", "two", w.path("out"))
	o := w.run(nil, "--json", "restore", "two", w.path("out"), "--partial")
	var res object
	if err := json.Unmarshal([]byte(o.stdout), &res); err != nil || o.code != exitDamage || res["failed_total"] != 1.0 {
		t.Errorf("restore --partial: exit status %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	if got := w.read("out/small"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if o := w.run(nil, "restore", "two", w.path("again"), "--partial"); o.code != exitDamage || !strings.Contains(o.stdout, "data/large") {
		t.Errorf("restore --partial: exit status %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// largest returns the largest of the packs among these objects.
func largest(t *testing.T, objects []string) (best string) {
	t.Helper()
	most := int64(-1)
	for _, name := range objects {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "pack") && info.Size() > most {
			best, most = name, info.Size()
		}
	}
	return best
}
