// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
)

// busy is a volume with everything, some of it without permissions.
func busy() *fake {
	var entries []*repo.Entry
	for i := range 3 {
		d := fmt.Sprintf("d%d", i)
		entries = append(entries, dirAt(d))
		closed := dirAt(d + "/closed")
		closed.Mode = 0
		entries = append(entries, closed, fileAt(d+"/closed/f", 10))
		for j := range 5 {
			entries = append(entries, fileAt(fmt.Sprintf("%s/f%d", d, j), 100))
		}
		entries = append(entries, linkAt(d+"/h", d+"/f0"), symlinkAt(d+"/s", "f0"))
	}
	large := fileAt("e", 80)
	f := rooted(append(entries, large)...)
	for i := range int64(8) {
		f.add("e", repo.Slice{Offset: i * 10, Length: 10})
	}
	return f
}

// TestFaults fails, and cancels, at every entry and at every read.
func TestFaults(t *testing.T) {
	a := newArena(t)
	var entries, reads int
	for _, e := range busy().entries {
		entries++
		if e.Size > 0 {
			reads++
		}
	}
	reads += 7 // of the large file
	for _, concurrency := range []int{1, 16} {
		for n := range entries + reads {
			for _, stop := range []bool{false, true} {
				ctx, cancel := context.WithCancel(t.Context())
				fault := func() error {
					if !stop {
						return errBoom
					}
					cancel()
					return ctx.Err()
				}
				f := busy()
				var entry, read atomic.Int64
				f.before = func(context.Context, *repo.Entry) error {
					if entry.Add(1) == int64(n+1) {
						return fault()
					}
					return nil
				}
				f.read = func(_ context.Context, s repo.Slice) ([]byte, error) {
					if read.Add(1) > int64(n-entries) && n >= entries {
						return nil, fault()
					}
					return bytes.Repeat([]byte("x"), int(s.Length)), nil
				}
				a.fails(ctx, f, &Options{Concurrency: concurrency, NoSync: true}, stop)
				cancel()
			}
		}
	}
}

// fails restores a volume that must fail, and leave nothing.
func (a *arena) fails(ctx context.Context, f *fake, opts *Options, canceled bool) {
	a.tb.Helper()
	want := errBoom
	if canceled {
		want = context.Canceled
	}
	if _, err := f.restore(ctx, a.target, opts); !errors.Is(err, want) {
		a.tb.Fatalf("got %v, want %v", err, want)
	}
	a.check(errBoom)
}

func TestShortRead(t *testing.T) {
	a := newArena(t)
	for _, n := range []int{0, 9, 11} {
		f := rooted(fileAt("a", 10))
		f.read = func(context.Context, repo.Slice) ([]byte, error) { return make([]byte, n), nil }
		_, err := f.restore(t.Context(), a.target, nil)
		if !errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
		a.check(err)
	}
}

// TestTargetAppears creates the target while the restore runs.
func TestTargetAppears(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(target string) error
		ok   bool
	}{
		"file":            {func(target string) error { return os.WriteFile(target, []byte("theirs"), 0o600) }, false},
		"link":            {func(target string) error { return os.Symlink("outside", target) }, false},
		"directory":       {func(target string) error { return os.MkdirAll(filepath.Join(target, "theirs"), 0o755) }, false},
		"empty directory": {func(target string) error { return os.Mkdir(target, 0o755) }, canReplace},
	} {
		for _, existed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", name, existed), func(t *testing.T) {
				a := newArena(t)
				if existed {
					a.must(os.Mkdir(a.target, 0o755))
				}
				f := rooted(fileAt("a", 1))
				f.before = func(_ context.Context, e *repo.Entry) error {
					if e.Path != "a" {
						return nil
					}
					return errors.Join(os.RemoveAll(a.target), tt.make(a.target))
				}
				_, err := f.restore(t.Context(), a.target, nil)
				if (err == nil) != tt.ok || err != nil && !errors.Is(err, fs.ErrExist) {
					t.Errorf("got %v, want success: %v", err, tt.ok)
				}
				a.check(nil)
				if _, serr := os.Lstat(filepath.Join(a.target, "a")); (serr == nil) != tt.ok {
					t.Errorf("content: %v", serr)
				}
			})
		}
	}
}

// TestStagingExchanged puts another directory where the staging directory was:
// it neither becomes the target nor is it removed.
func TestStagingExchanged(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open directories cannot be renamed")
	}
	a := newArena(t)
	moved := filepath.Join(t.TempDir(), "moved")
	var theirs string
	f := rooted(fileAt("a", 1))
	f.before = func(_ context.Context, e *repo.Entry) error {
		if e.Path != "a" {
			return nil
		}
		found, err := filepath.Glob(filepath.Join(a.dir, stagingPrefix+"*"))
		a.must(err)
		theirs = found[0]
		a.must(os.Rename(theirs, moved))
		return os.MkdirAll(filepath.Join(theirs, "theirs"), 0o755)
	}
	if _, err := f.restore(t.Context(), a.target, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(theirs, "theirs")); err != nil {
		t.Error(err)
	}
	a.must(os.RemoveAll(theirs))
	a.check(errBoom)
}

// chunks is a store with a cache that needs a second for each chunk.
type chunks struct {
	mu     sync.Mutex
	chunks map[int64]chan struct{}
	most   int // in flight at once
	now    int
}

func (c *chunks) get(ctx context.Context, id int64) error {
	c.mu.Lock()
	ready, ok := c.chunks[id]
	if !ok {
		ready = make(chan struct{})
		c.chunks[id] = ready
		c.now++
		c.most = max(c.most, c.now)
	}
	c.mu.Unlock()
	if !ok {
		time.AfterFunc(time.Second, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.now--
			close(ready)
		})
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestParallel checks that pieces of one file are read at the same time, and
// that chunks of small files are read ahead, within the bounds.
func TestParallel(t *testing.T) {
	large := rooted(fileAt("large", 0))
	for i := range int64(64) {
		large.add("large", repo.Slice{Offset: i * 1000, Length: 1000})
		large.entries[1].Size += 1000
	}
	small := rooted()
	for i := range 2048 {
		small.entries = append(small.entries, fileAt(fmt.Sprintf("%04d", i), 4096+int64(i))) // the size tells them apart
	}
	for name, tt := range map[string]struct {
		f     *fake
		chunk func(repo.Slice) int64
		most  time.Duration
		reads int
	}{
		"large": {large, func(s repo.Slice) int64 { return s.Offset }, 64 / 16 * time.Second, 16},
		"small": {small, func(s repo.Slice) int64 { return (s.Length - 4096) / 64 }, 6 * time.Second, aheadChunks + 16},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArena(t)
			synctest.Test(t, func(t *testing.T) {
				c := &chunks{chunks: map[int64]chan struct{}{}}
				f := *tt.f
				f.read = func(ctx context.Context, s repo.Slice) ([]byte, error) {
					return make([]byte, s.Length), c.get(ctx, tt.chunk(s))
				}
				start := time.Now()
				if _, err := f.restore(t.Context(), a.target, &Options{NoSync: true}); err != nil {
					t.Fatal(err)
				}
				d := time.Since(start)
				if d > tt.most || c.most > tt.reads {
					t.Errorf("took %v with %d reads at once, want at most %v and %d", d, c.most, tt.most, tt.reads)
				}
				t.Logf("%d chunks in %v, %d at once", len(c.chunks), d, c.most)
			})
			a.check(nil)
		})
	}
}

// TestProgress checks that it is told about every half second, and at the end.
func TestProgress(t *testing.T) {
	a := newArena(t)
	synctest.Test(t, func(t *testing.T) {
		f := rooted(fileAt("a", 10))
		f.read = func(ctx context.Context, s repo.Slice) ([]byte, error) {
			time.Sleep(1700 * time.Millisecond)
			return make([]byte, s.Length), nil
		}
		var calls []Progress
		_, err := f.restore(t.Context(), a.target, &Options{NoSync: true, Concurrency: 1, Progress: func(p Progress) { calls = append(calls, p) }})
		if err != nil {
			t.Fatal(err)
		}
		during := Progress{Dirs: 1, FilesTotal: 1, BytesTotal: 10}
		end := Progress{Dirs: 1, FilesTotal: 1, BytesTotal: 10, Files: 1, Bytes: 10, Written: 10}
		if diff := cmp.Diff([]Progress{during, during, during, end}, calls); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
