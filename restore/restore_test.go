// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"context"
	"errors"
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
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore"
	"github.com/stillpoint-go/protect/restore/restoretest"
)

// key is cheap to derive, since tests open many repositories.
func key() repo.Key { return repo.Passphrase("secret").WithKDF(1, 8, 1) }

func newRepo(tb testing.TB) (*repo.Repository, *blob.Bucket) {
	tb.Helper()
	b := memblob.OpenBucket(nil)
	tb.Cleanup(func() { _ = b.Close() })
	r, err := repo.Init(tb.Context(), b, key(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r, b
}

// write stores directories or files as volumes of a point.
func write(tb testing.TB, r *repo.Repository, id string, volumes map[string]string) *repo.Point {
	tb.Helper()
	p, err := r.Write(tb.Context(), repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		for name, local := range volumes {
			if err := w.Put(ctx, name, local); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func put(tb testing.TB, dir, name string, data []byte) string {
	tb.Helper()
	p := filepath.Join(dir, filepath.FromSlash(name))
	must(tb, os.MkdirAll(filepath.Dir(p), 0o755))
	must(tb, os.WriteFile(p, data, 0o644))
	return p
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// sample makes a tree that has one of everything.
func sample(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(scratch(tb), "sample")
	for i, n := range []int{0, 1, 4095, 128 << 10, 128<<10 + 1, 1 << 20, 9 << 20} {
		put(tb, dir, fmt.Sprintf("sizes/%d", n), random(uint64(i), n))
	}
	for i := range 400 {
		put(tb, dir, fmt.Sprintf("small/%d/%03d.txt", i%7, i), []byte(strings.Repeat(fmt.Sprintln("line", i), i)))
	}
	put(tb, dir, "names/ leading and trailing ", []byte("x"))
	put(tb, dir, "names/Ünïcödé 名前 \u202e", []byte("x"))
	if runtime.GOOS == "linux" {
		for _, name := range []string{"new\nline", `back\slash`, "\xff\xfe", strings.Repeat("n", 255), "-rf", "a:b", "CON", "trailing."} {
			put(tb, dir, "names/"+name, []byte(name))
		}
		put(tb, dir, strings.Repeat("deep/", 255)+"file", []byte("deep")) // 256 components
	}
	must(tb, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	must(tb, os.Symlink("../outside/dangling", filepath.Join(dir, "dangling")))
	must(tb, os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")))
	must(tb, os.Symlink("sizes", filepath.Join(dir, "names/to-dir")))
	must(tb, os.Link(filepath.Join(dir, "sizes/4095"), filepath.Join(dir, "small/hard")))
	must(tb, os.Link(filepath.Join(dir, "sizes/4095"), filepath.Join(dir, "zzz")))
	sparse(tb, filepath.Join(dir, "sparse"))
	modes(tb, dir)
	setXattrs(tb, dir)
	times(tb, dir)
	return dir
}

// sparse makes a file of 40 MiB with two pieces of data and a hole at the end.
func sparse(tb testing.TB, name string) {
	tb.Helper()
	f, err := os.Create(name)
	must(tb, err)
	_, err = f.WriteAt(random(99, 300_000), 5<<20)
	must(tb, err)
	_, err = f.WriteAt([]byte("island"), 30<<20)
	must(tb, err)
	must(tb, f.Truncate(40<<20))
	must(tb, f.Close())
}

func modes(tb testing.TB, dir string) {
	tb.Helper()
	for _, m := range []fs.FileMode{0, 0o111, 0o400, 0o444, 0o600, 0o666, 0o755, 0o777} {
		name := fmt.Sprintf("modes/%03o", m)
		p := put(tb, dir, name+".d/file", []byte(name))
		if os.Getuid() != 0 {
			m |= 0o500 // who cannot read it cannot back it up
		}
		must(tb, os.Chmod(p, m))
		must(tb, os.Chmod(filepath.Dir(p), m))
	}
}

// scratch returns a directory that is removed after the test, whatever modes
// are in it.
func scratch(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	tb.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(p, 0o700) // a directory
			}
			return nil
		})
	})
	return dir
}

// times gives everything a modification time of its own, with nanoseconds,
// before 1970 and after 2262 too.
func times(tb testing.TB, dir string) {
	tb.Helper()
	i := 0
	must(tb, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink == 0 {
			mtime := time.Date(1960+i%150, 2, 3, 4, 5, i%60, 123456789-i, time.UTC)
			i++
			return os.Chtimes(p, mtime, mtime)
		}
		return nil
	}))
}

// compare fails the test unless both trees are the same.
func compare(tb testing.TB, want, got string, opts *restoretest.Options) {
	tb.Helper()
	if diff := restoretest.Diff(tb, want, got, opts); diff != "" {
		tb.Errorf("restored tree (-want +got):\n%s", diff)
	}
}

// nothing fails the test if there is more in the directory than names.
func nothing(tb testing.TB, dir string, names ...string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	must(tb, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(names, got); diff != "" {
		tb.Errorf("in the directory of the target (-want +got):\n%s", diff)
	}
}

func TestRoundTrip(t *testing.T) {
	r, _ := newRepo(t)
	dir := sample(t)
	p := write(t, r, "one", map[string]string{"data": dir})
	for _, concurrency := range []int{0, 1, 3} {
		parent := scratch(t)
		target := filepath.Join(parent, "target")
		var last restore.Progress
		calls := 0
		report, err := restore.Volume(t.Context(), r, p, "data", target, &restore.Options{
			Concurrency: concurrency,
			Progress:    func(pr restore.Progress) { last = pr; calls++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, dir, target, nil)
		nothing(t, parent, "target")
		v := p.Volumes[0]
		want := restore.Report{Files: v.Files, Dirs: v.Dirs, Bytes: v.Bytes, Written: report.Written, Elapsed: report.Elapsed}
		if diff := cmp.Diff(&want, report); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
		if report.Written >= report.Bytes-(30<<20) || report.Written < 10<<20 || report.Elapsed <= 0 {
			t.Errorf("report: %+v", report)
		}
		wantLast := restore.Progress{
			Files: v.Files, Dirs: v.Dirs, Bytes: v.Bytes, Written: report.Written, FilesTotal: v.Files, BytesTotal: v.Bytes,
		}
		if diff := cmp.Diff(wantLast, last); diff != "" || calls == 0 {
			t.Errorf("last progress of %d (-want +got):\n%s", calls, diff)
		}
		if b := blocks(t, filepath.Join(target, "sparse")); b > 1<<20 {
			t.Errorf("the sparse file takes %d bytes on disk", b)
		}
	}
}

func TestPath(t *testing.T) {
	r, _ := newRepo(t)
	dir := sample(t)
	put(t, dir, "small/0/inner/x", []byte("x"))
	p := write(t, r, "one", map[string]string{"data": dir, "single": filepath.Join(dir, "sizes/4095")})
	one := func(name string) func(t *testing.T, target string) {
		return func(t *testing.T, target string) {
			nothing(t, target, filepath.Base(name))
			compare(t, filepath.Join(dir, name), filepath.Join(target, filepath.Base(name)), nil)
		}
	}
	tree := func(name string) func(t *testing.T, target string) {
		return func(t *testing.T, target string) { compare(t, filepath.Join(dir, name), target, nil) }
	}
	for _, tt := range []struct {
		volume, path string
		check        func(t *testing.T, target string)
		err          error
	}{
		{volume: "data", path: ".", check: tree(".")},
		{volume: "data", path: "", check: tree(".")},
		{volume: "data", path: "small/0", check: tree("small/0")},
		{volume: "data", path: "./small//0/", check: tree("small/0")},
		{volume: "data", path: "empty", check: tree("empty")},
		{volume: "data", path: "modes/000.d", check: tree("modes/000.d")},
		{volume: "data", path: "sizes/9437184", check: one("sizes/9437184")},
		{volume: "data", path: "sparse", check: one("sparse")},
		{volume: "data", path: "dangling", check: one("dangling")},
		{volume: "data", path: "zzz", check: one("zzz")}, // a hard link whose file is elsewhere
		{volume: "single", path: "", check: func(t *testing.T, target string) {
			nothing(t, target, "single")
			compare(t, filepath.Join(dir, "sizes/4095"), filepath.Join(target, "single"), nil)
		}},
		{volume: "data", path: "absent", err: fs.ErrNotExist},
		{volume: "data", path: "sizes/1/x", err: fs.ErrNotExist},
		{volume: "data", path: "small/", check: tree("small")},
		{volume: "absent", path: "", err: fs.ErrNotExist},
		{volume: "data", path: "/sizes", err: fs.ErrInvalid},
		{volume: "data", path: "sizes/../..", err: fs.ErrInvalid},
		{volume: "data", path: "a\x00b", err: fs.ErrInvalid},
	} {
		t.Run(fmt.Sprintf("%s:%q", tt.volume, tt.path), func(t *testing.T) {
			parent := scratch(t)
			target := filepath.Join(parent, "t")
			_, err := restore.Volume(t.Context(), r, p, tt.volume, target, &restore.Options{Path: tt.path, NoSync: true})
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if tt.err != nil {
				nothing(t, parent)
				return
			}
			tt.check(t, target)
		})
	}
}

func TestHardLinksFromOutside(t *testing.T) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	first := put(t, dir, "a/first", []byte("shared content"))
	must(t, os.Mkdir(filepath.Join(dir, "b"), 0o755))
	for _, name := range []string{"b/second", "b/third"} {
		must(t, os.Link(first, filepath.Join(dir, name)))
	}
	p := write(t, r, "one", map[string]string{"v": dir})
	target := filepath.Join(t.TempDir(), "t")
	report, err := restore.Volume(t.Context(), r, p, "v", target, &restore.Options{Path: "b"})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(dir, "b"), target, nil)
	if report.Files != 2 || report.Bytes != 14 || report.Written != 14 {
		t.Errorf("report: %+v", report)
	}
}

func TestPoint(t *testing.T) {
	r, _ := newRepo(t)
	a, b := t.TempDir(), t.TempDir()
	put(t, a, "x/y", []byte("a"))
	file := put(t, b, "f", []byte("b"))
	p := write(t, r, "one", map[string]string{"a": a, "dir": b, "file": file})
	target := filepath.Join(t.TempDir(), "t")
	report, err := restore.Point(t.Context(), r, p, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	nothing(t, target, "a", "dir", "file")
	compare(t, a, filepath.Join(target, "a"), nil)
	compare(t, b, filepath.Join(target, "dir"), nil)
	compare(t, file, filepath.Join(target, "file"), nil)
	if report.Files != 3 || report.Dirs != 3 {
		t.Errorf("report: %+v", report)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o700 && runtime.GOOS != "windows" {
		t.Errorf("target: %v, %v", info.Mode(), err)
	}
	some := filepath.Join(t.TempDir(), "t")
	if _, err := restore.Point(t.Context(), r, p, some, &restore.Options{Volumes: []string{"file", "a", "a"}}); err != nil {
		t.Fatal(err)
	}
	nothing(t, some, "a", "file")
	for _, o := range []*restore.Options{{Volumes: []string{"a", "absent"}}, {Path: "x"}} {
		target := filepath.Join(t.TempDir(), "t")
		if _, err := restore.Point(t.Context(), r, p, target, o); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
		nothing(t, filepath.Dir(target))
	}
}
