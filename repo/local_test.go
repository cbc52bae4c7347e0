// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// cached opens the repository with a local cache, all of its index in files.
func cached(tb testing.TB, b *repotest.Bucket, dir string) *repo.Repository {
	tb.Helper()
	r, err := repo.Open(tb.Context(), b.Bucket(), key("secret"), &repo.Options{CacheDir: dir, Attempts: 1})
	if err != nil {
		tb.Fatal(err)
	}
	repo.KeepTablesInFiles(r)
	return r
}

// reads counts the reads of objects whose keys start with one of the prefixes.
func reads(calls []repotest.Op, prefixes ...string) int {
	n := 0
	for _, op := range calls {
		for _, p := range prefixes {
			if op.Kind == repotest.Get && strings.HasPrefix(op.Key, p) {
				n++
			}
		}
	}
	return n
}

// cacheFiles returns our files in a cache folder.
func cacheFiles(tb testing.TB, dir string) []string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*-?-*"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d files in the cache, %v", len(files), err)
	}
	return files
}

// TestCacheDir reads metadata once, over several processes.
func TestCacheDir(t *testing.T) {
	w := smallWorld(t)
	cache := t.TempDir()
	meta := []string{"index/", "point/", "closed/", "condemn/"}
	for _, again := range []bool{false, true, true} {
		p := w.bucket.Open(nil)
		r := cached(t, p, cache)
		for id, want := range w.want {
			pt, err := r.Point(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			tr, err := r.Tree(t.Context(), pt, "v")
			if err != nil {
				t.Fatal(err)
			}
			before := reads(p.Calls(), "pack/")
			n := 0
			for _, err := range tr.Entries(t.Context(), ".") {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if got := reads(p.Calls(), "pack/") - before; again && got > 0 || n == 0 {
				t.Errorf("%d reads of packs to list %d entries", got, n)
			}
			if diff := cmp.Diff(want, contents(t, r, pt)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		if n := reads(p.Calls(), meta...); again != (n == 0) {
			t.Errorf("again: %t, and %d reads of metadata", again, n)
		}
		p = w.bucket.Open(nil)
		before := reads(p.Calls(), "index/")
		verify(t, cached(t, p, cache), true)
		if reads(p.Calls(), "index/") == before {
			t.Error("the verification trusted the cache")
		}
	}
}

// TestDamagedCache changes bytes of every file of the cache, cuts them and
// exchanges them, before the repository is opened and while it is open. All is
// read and written as if there were no cache.
func TestDamagedCache(t *testing.T) {
	w := smallWorld(t)
	cache := t.TempDir()
	warm := func(r *repo.Repository, what string) {
		t.Helper()
		for id, want := range w.want {
			p, err := r.Point(t.Context(), id)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			got, err := readAll(t.Context(), r, p)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", what, diff)
			}
		}
	}
	warm(cached(t, w.bucket, cache), "at first")
	files := cacheFiles(t, cache)
	cases := 0
	tables := 0
	for i, file := range files {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(files[(i+1)%len(files)])
		if err != nil {
			t.Fatal(err)
		}
		step := 1
		if strings.Contains(filepath.Base(file), "-f-") {
			tables++
			step = 7
		}
		if testing.Short() {
			step *= 10
		}
		damage := map[string][]byte{"empty": {}, "half": good[:len(good)/2], "longer": append(bytes.Clone(good), 0), "other": other}
		for n := 0; n < len(good); n += step * (1 + len(good)/200) {
			b := bytes.Clone(good)
			b[n] ^= 0x10
			damage[fmt.Sprintf("byte %d", n)] = b
		}
		for how, b := range damage {
			what := fmt.Sprintf("%s: %s", filepath.Base(file), how)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			warm(cached(t, w.bucket, cache), what)
			cases++
			r := cached(t, w.bucket, cache)
			warm(r, what)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			warm(r, what+", while it is open")
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if tables == 0 || cases < 100 {
		t.Errorf("%d cases, %d tables", cases, tables)
	}
}

// TestBrokenTable loses the content of the index's files in a session: what the
// repository has must still be found.
func TestBrokenTable(t *testing.T) {
	b := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), b.Bucket(), key("secret"), nil); err != nil {
		t.Fatal(err)
	}
	cache, dir := t.TempDir(), t.TempDir()
	put(t, dir, "f", random(3, 3_000_000))
	write(t, cached(t, b, cache), "one", dir)
	r := cached(t, b, cache)
	for i := range 5 {
		var stored int64
		p, err := r.Write(t.Context(), repo.WriteOptions{ID: fmt.Sprint("again ", i), Name: fmt.Sprint(i)}, func(ctx context.Context, w *repo.Writer) error {
			tables, err := filepath.Glob(filepath.Join(cache, "*-f-*"))
			if i < 2 && len(tables) == 0 {
				err = errors.New("the index is not in files")
			}
			for _, file := range tables {
				data, rerr := os.ReadFile(file)
				err = errors.Join(err, rerr)
				for n := range data { // in place, under the open file
					data[n] ^= 0x55
				}
				f, oerr := os.OpenFile(file, os.O_WRONLY, 0)
				if oerr == nil {
					_, oerr = f.Write(data)
					oerr = errors.Join(oerr, f.Close())
				}
				err = errors.Join(err, oerr)
			}
			return errors.Join(err, w.Put(ctx, "v", dir))
		})
		if err != nil {
			t.Fatal(err)
		}
		if stored = p.Stats.New; stored > 100_000 {
			t.Errorf("run %d stored %d bytes again", i, stored)
		}
		if diff := cmp.Diff(onDisk(t, dir), contents(t, r, p)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestCrowdedIndex writes many points: the number of segments to read stays
// small, and collectors leave only these.
func TestCrowdedIndex(t *testing.T) {
	b := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), b.Bucket(), key("secret"), &repo.Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	want := map[string]map[string]string{}
	segments := func() (n int) {
		for _, k := range b.Keys() {
			if strings.HasPrefix(k, "index/") {
				n++
			}
		}
		return n
	}
	const points = 90
	for i := range points {
		id := fmt.Sprint(i)
		put(t, dir, "f", random(uint64(i), 2000))
		write(t, r, id, dir)
		want[id] = onDisk(t, dir)
	}
	if n := segments(); n < points {
		t.Errorf("%d segments: a writer has deleted some", n)
	}
	check := func(r *repo.Repository) {
		t.Helper()
		for id, want := range want {
			p, err := r.Point(t.Context(), id)
			if errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("point %s: %v", id, err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, contents(t, r, p)); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
	}
	fresh := b.Open(nil)
	check(reopen(t, fresh.Bucket()))
	if n := reads(fresh.Calls(), "index/"); n > 27 {
		t.Errorf("%d reads of %d segments", n, segments())
	}
	if _, err := r.Collect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if n := segments(); n > 18 {
		t.Errorf("%d segments after a collection", n)
	}
	check(r)
	check(reopen(t, b.Bucket()))
	if rep := verify(t, reopen(t, b.Bucket()), true); len(rep.Damage) > 0 {
		t.Errorf("%+v", rep.Damage)
	}
}
