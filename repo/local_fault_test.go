// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// breakTables damages all files of the index in a cache folder: in place, so that
// whoever has them open meets it. It returns their number.
func breakTables(dir string, how func(path string) error) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*-f-*"))
	for _, f := range files {
		if herr := how(f); herr == nil {
			n++
		} else if !errors.Is(herr, fs.ErrNotExist) { // somebody has removed it
			err = errors.Join(err, herr)
		}
	}
	return n, err
}

// The ways in which a cache folder comes to harm.
var cacheHarms = []func(dir string) (int, error){
	func(dir string) (int, error) { return breakTables(dir, scramble) },
	func(dir string) (int, error) {
		return breakTables(dir, func(path string) error { return os.Truncate(path, 100) })
	},
	func(dir string) (int, error) { return breakTables(dir, os.Remove) },
	func(dir string) (int, error) {
		n, err := breakTables(dir, scramble)
		_ = os.RemoveAll(dir) // others are about to fill it
		return n, err
	},
}

func scramble(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for i := range data {
		data[i] ^= 0x55
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// localJobs are what uses the index. Each returns what must be the same
// whatever becomes of the cache.
var localJobs = map[string]func(t *testing.T, r *repo.Repository, world *repotest.Bucket) (any, error){
	"collect": func(t *testing.T, r *repo.Repository, _ *repotest.Bucket) (any, error) {
		rep, err := r.Collect(t.Context(), &repo.CollectOptions{StaleAfter: -1, MaxDelete: 1, Repack: 1})
		var did []string
		for _, i := range rep.Items {
			did = append(did, i.Action+" "+strings.Split(i.Object, "/")[0])
		}
		slices.Sort(did)
		rep.Items = nil
		return []any{rep, did}, err
	},
	"write": func(t *testing.T, r *repo.Repository, world *repotest.Bucket) (any, error) {
		p, err := storeWith(t.Context(), r, "some-2", []int{10, 11, 30, 70, 71}, nil)
		if err != nil {
			return nil, err
		}
		return []any{p.Stats.New / 1000, contents(t, reopen(t, world.Bucket()), p)}, nil
	},
	"verify": func(t *testing.T, r *repo.Repository, _ *repotest.Bucket) (any, error) {
		return r.Verify(t.Context(), &repo.VerifyOptions{Level: repo.VerifyFull})
	},
	"read": func(t *testing.T, r *repo.Repository, _ *repotest.Bucket) (any, error) {
		points, err := r.Points(t.Context())
		got := map[string]map[string]string{}
		for _, p := range points {
			if err == nil {
				got[p.ID], err = readAll(t.Context(), r, p)
			}
		}
		return got, err
	},
	"copy from": func(t *testing.T, r *repo.Repository, _ *repotest.Bucket) (any, error) {
		dst, err := repo.Init(t.Context(), repotest.NewBucket(nil).Bucket(), key("other"), nil)
		if err != nil {
			return nil, err
		}
		rep, err := r.CopyTo(t.Context(), dst, nil, nil)
		return []any{rep.Copied, rep.New}, err
	},
	"copy to": func(t *testing.T, r *repo.Repository, world *repotest.Bucket) (any, error) {
		src, err := repo.Init(t.Context(), repotest.NewBucket(nil).Bucket(), key("other"), nil)
		if err != nil {
			return nil, err
		}
		p := store(t, src, "copied-1", 10, 80)
		rep, err := src.CopyTo(t.Context(), r, nil, nil)
		if err != nil {
			return nil, err
		}
		got, err := reopen(t, world.Bucket()).Point(t.Context(), p.ID)
		if err != nil {
			return nil, err
		}
		return []any{rep.Copied, contents(t, reopen(t, world.Bucket()), got)}, nil
	},
	"repair": func(t *testing.T, r *repo.Repository, world *repotest.Bucket) (any, error) {
		rep, err := r.Repair(t.Context(), nil)
		if err != nil {
			return nil, err
		}
		healthy(t, reopen(t, world.Bucket()), 2)
		slices.Sort(rep.Indexed)
		return rep, nil
	},
}

// localWorld is where the jobs work. For repairs, it lacks a part of the index.
func localWorld(tb testing.TB) func(job string) *repotest.Bucket {
	base, _ := busyWorld(tb)
	lacking := base.Clone(nil)
	r := reopen(tb, lacking.Bucket())
	if _, err := r.Collect(tb.Context(), &repo.CollectOptions{StaleAfter: -1, MaxDelete: 1}); err != nil {
		tb.Fatal(err)
	}
	for _, key := range lacking.Keys() {
		if strings.HasPrefix(key, "index/") {
			lacking.Delete(key)
			break
		}
	}
	return func(job string) *repotest.Bucket {
		if job == "repair" {
			return lacking.Clone(nil)
		}
		return base.Clone(nil)
	}
}

// TestBrokenTables damages or removes the index's files at every call of
// everything that uses them, once, and again and again. All goes on as if there
// were none.
func TestBrokenTables(t *testing.T) {
	world := localWorld(t)
	for name, job := range localJobs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world(name)
			want, err := job(t, reopen(t, w.Bucket()), w)
			if err != nil {
				t.Fatal(err)
			}
			step := 7
			if *long {
				step = 1
			}
			broken := 0
			for _, often := range []bool{false, true} {
				for i, more := 0, true; more; i += step {
					w, dir, harm := world(name), filepath.Join(t.TempDir(), "cache"), cacheHarms[i%len(cacheHarms)]
					var calls, hits atomic.Int64
					process := w.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault {
						if n := int(calls.Add(1)) - 1; n == i || often && n > i {
							n, err := harm(dir)
							hits.Add(int64(n))
							if err != nil {
								t.Error(err)
							}
						}
						return repotest.Fault{}
					}})
					got, err := job(t, cached(t, process, dir), w)
					if err != nil {
						t.Fatalf("call %d, often: %t: %v", i, often, err)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Fatalf("call %d, often: %t (-want +got):\n%s", i, often, diff)
					}
					broken += int(min(hits.Load(), 1))
					more = int(calls.Load()) > i
				}
			}
			if broken < 3 {
				t.Errorf("only %d runs met a damaged file", broken)
			}
		})
	}
}

// TestBrokenMerger damages the index's files when there are so many that they
// are merged, which reads them: after a refresh, and after a session's flush.
func TestBrokenMerger(t *testing.T) {
	for _, flush := range []bool{false, true} {
		b := repotest.NewBucket(nil)
		if _, err := repo.Init(t.Context(), b.Bucket(), key("secret"), nil); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		r := cached(t, b, dir)
		w := &indexWriter{r: r, rng: rand.NewChaCha8([32]byte{9})}
		grow := func() {
			t.Helper()
			w.put(t, 50)
			if err := r.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 24 {
			grow()
		}
		harm := func() {
			if n, err := breakTables(dir, scramble); n != 24 || err != nil {
				t.Fatalf("%d files, %v", n, err)
			}
		}
		if flush {
			if _, err := storeWith(t.Context(), r, "p-1", []int{1}, harm); err != nil {
				t.Error(err)
			}
		} else {
			harm()
			grow()
		}
		for _, id := range w.ids {
			if n, err := r.Find(t.Context(), id); n != 1 || err != nil {
				t.Fatalf("a chunk is in %d places, %v", n, err)
			}
		}
	}
}

// TestSharedCache has several processes that use one folder at the same time,
// and remove each other's tables.
func TestSharedCache(t *testing.T) {
	b := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), b.Bucket(), key("secret"), nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var g errgroup.Group
	for n := range 4 {
		r := cached(t, b, dir)
		g.Go(func() error {
			for i := range 6 {
				p, err := storeWith(t.Context(), r, fmt.Sprintf("%d-%d", n, i), []int{i, 100*(n+1) + i}, nil)
				if err != nil {
					return err
				}
				if _, err := r.Collect(t.Context(), nil); err != nil {
					return err
				}
				if _, err := readAll(t.Context(), r, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	healthy(t, cached(t, b, dir), 4*6)
}
