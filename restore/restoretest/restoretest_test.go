// SPDX-License-Identifier: Apache-2.0

package restoretest_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/restore/restoretest"
)

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d", "e"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d", "f"), []byte("content"), 0o644))
	must(t, os.Symlink("f", filepath.Join(dir, "d", "l")))
	must(t, os.Link(filepath.Join(dir, "d", "f"), filepath.Join(dir, "h")))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDiff(t *testing.T) {
	noTimes := &restoretest.Options{IgnoreTimes: true}
	if diff := restoretest.Diff(t, tree(t), tree(t), noTimes); diff != "" {
		t.Errorf("equal trees differ:\n%s", diff)
	}
	for name, change := range map[string]func(dir string) error{
		"content": func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/f"), []byte("CONTENT"), 0o600) },
		"missing": func(dir string) error { return os.Remove(filepath.Join(dir, "d/e")) },
		"more":    func(dir string) error { return os.Mkdir(filepath.Join(dir, "new"), 0o755) },
		"mode":    func(dir string) error { return os.Chmod(filepath.Join(dir, "d/f"), 0o400) },
		"target": func(dir string) error {
			l := filepath.Join(dir, "d/l")
			_ = os.Remove(l)
			return os.Symlink("g", l)
		},
		"hard link": func(dir string) error {
			h := filepath.Join(dir, "h")
			_ = os.Remove(h)
			return os.WriteFile(h, []byte("content"), 0o644)
		},
	} {
		if name == "hard link" && runtime.GOOS == "windows" {
			continue
		}
		changed := tree(t)
		must(t, change(changed))
		if restoretest.Diff(t, tree(t), changed, noTimes) == "" {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestOptions(t *testing.T) {
	a, b := tree(t), tree(t)
	must(t, os.Chtimes(filepath.Join(b, "d", "f"), time.Time{}, time.Unix(1, 1)))
	must(t, os.Chmod(filepath.Join(b, "d"), 0o700))
	must(t, os.Mkdir(filepath.Join(b, "extra"), 0o755))
	must(t, os.Mkdir(filepath.Join(b, "extra", "x"), 0o755))
	opts := restoretest.Options{IgnoreTimes: true, IgnoreModes: true, Ignore: func(p string) bool { return p == "extra" }}
	if diff := restoretest.Diff(t, a, b, &opts); diff != "" {
		t.Errorf("not ignored:\n%s", diff)
	}
	without := []func(*restoretest.Options){
		func(o *restoretest.Options) { o.IgnoreTimes = false },
		func(o *restoretest.Options) { o.IgnoreModes = runtime.GOOS == "windows"; o.IgnoreTimes = o.IgnoreModes },
		func(o *restoretest.Options) { o.Ignore = nil },
	}
	for i, change := range without {
		o := opts
		if change(&o); restoretest.Diff(t, a, b, &o) == "" && runtime.GOOS != "windows" {
			t.Errorf("option %d ignores nothing of its own", i)
		}
	}
}
