// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore/restoretest"
)

// TestSwapper replaces directories of the staging area by links to the outside,
// and back, as fast as it can while restores run. Restores may fail, and they
// may follow links within what they restore, but nothing outside may change.
func TestSwapper(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open directories cannot be renamed")
	}
	a := newArena(t)
	for _, d := range []string{"a", "b", "c"} { // what would be hit, if it were followed
		a.must(os.MkdirAll(filepath.Join(a.canary, d, d), 0o755))
	}
	a = &arena{tb: t, dir: a.dir, target: a.target, canary: a.canary, before: restoretest.Describe(t, a.canary, nil)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	swaps := make(chan int)
	go func() { swaps <- swap(ctx, a.dir) }()
	restores, failed := 0, 0
	for ctx.Err() == nil {
		f := rooted()
		for _, x := range []string{"a", "b", "c"} {
			f.entries = append(f.entries, dirAt(x))
			for _, y := range []string{"a", "b", "c"} {
				p := x + "/" + y
				f.entries = append(f.entries, dirAt(p), fileAt(p+"/f", 3), linkAt(p+"/h", p+"/f"), symlinkAt(p+"/s", "/etc"))
				for i := range 20 {
					f.entries = append(f.entries, fileAt(fmt.Sprintf("%s/x%02d", p, i), 3))
				}
			}
		}
		f.before = func(context.Context, *repo.Entry) error {
			runtime.Gosched()
			return nil
		}
		if _, err := f.restore(t.Context(), a.target, &Options{NoSync: true, Concurrency: 4}); err != nil {
			failed++
		}
		restores++
		// What a swap hid from the removal is left: in the arena, not outside.
		if entries, err := os.ReadDir(a.dir); err == nil {
			for _, e := range entries {
				if e.Name() != "outside" {
					_ = os.RemoveAll(filepath.Join(a.dir, e.Name()))
				}
			}
		}
	}
	n := <-swaps
	if diff := cmp.Diff(a.before, restoretest.Describe(t, a.canary, nil)); diff != "" {
		t.Fatalf("escape (-before +after):\n%s", diff)
	}
	t.Logf("%d swaps during %d restores, of which %d failed", n, restores, failed)
	if n < 50 || restores < 3 {
		t.Errorf("%d swaps during %d restores prove nothing", n, restores)
	}
}

// swap exchanges directories in all staging directories of dir until the
// context ends. It returns how often it did.
func swap(ctx context.Context, dir string) (n int) {
	outside := filepath.Join(dir, "outside")
	for ctx.Err() == nil {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), stagingPrefix) {
				continue
			}
			for _, p := range []string{"a", "b", "c", "a/a", "a/b", "b/a", "b/c", "c/c"} {
				p = filepath.Join(dir, e.Name(), p)
				hidden := p + ".hidden"
				if os.Rename(p, hidden) != nil {
					continue
				}
				if os.Symlink(outside, p) == nil {
					n++
					runtime.Gosched()
					_ = os.Remove(p)
				}
				_ = os.Rename(hidden, p)
			}
		}
	}
	return n
}

// FuzzEntry restores a volume of two entries of the fuzzer's choice.
func FuzzEntry(f *testing.F) {
	for _, seed := range []struct {
		t1, t2                 uint8
		p1, target1, p2, t2arg string
	}{
		{1, 2, "a", "", "a/b", ""},
		{3, 2, "a", "../outside", "a/b", ""},
		{2, 4, "a", "", "b", "a"},
		{3, 4, "a", "/etc/passwd", "b", "a"},
		{2, 2, "../outside/f", "", "a/../../x", ""},
		{1, 1, "a\x00", "", "A", ""},
	} {
		f.Add(seed.t1, seed.p1, seed.target1, seed.t2, seed.p2, seed.t2arg, uint32(0o7777), int64(9), int64(-1))
	}
	a := newArena(f)
	f.Fuzz(func(t *testing.T, t1 uint8, p1, l1 string, t2 uint8, p2, l2 string, mode uint32, size, sec int64) {
		a := &arena{tb: t, dir: a.dir, target: a.target, canary: a.canary, before: a.before}
		x, y := entry(repo.EntryType(t1%6), p1), entry(repo.EntryType(t2%6), p2)
		x.Target, y.Target = l1, l2
		y.Mode = os.FileMode(mode)
		x.Size = size
		y.ModTime = time.Unix(sec, 0)
		if before(p1, p2) && (before(p2, p1) || p1 == p2) {
			t.Errorf("%q is before and after %q", p1, p2)
		}
		_, err := rooted(x, y).restore(t.Context(), a.target, &Options{NoSync: true, MaxBytes: 1 << 30, Concurrency: 2})
		a.check(err)
		a.clean()
	})
}
