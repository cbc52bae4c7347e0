// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestWriters has 8 processes write 10 points each, at the same time.
func TestWriters(t *testing.T) {
	bucket := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), bucket.Bucket(), key("secret"), nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	want := make([]map[string]string, 8)
	for i := range 8 {
		dir := t.TempDir()
		for n := range 20 {
			put(t, dir, fmt.Sprint("shared/", n), random(uint64(n), 2000))
		}
		wg.Go(func() {
			r, err := repo.Open(t.Context(), bucket.Open(nil).Bucket(), key("secret"), nil)
			if err != nil {
				t.Error(err)
				return
			}
			for n := range 10 {
				put(t, dir, "own", fmt.Append(nil, i, n))
				if _, err := r.Write(t.Context(), repo.WriteOptions{ID: fmt.Sprint(i, "-", n), Name: fmt.Sprint(i % 3)}, func(ctx context.Context, w *repo.Writer) error {
					return w.Put(ctx, "v", dir)
				}); err != nil {
					t.Error(err)
				}
			}
			want[i] = onDisk(t, dir)
		})
	}
	wg.Wait()
	r := reopen(t, bucket.Bucket())
	healthy(t, r, 80)
	points, err := r.Points(t.Context())
	if err != nil || len(points) != 80 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	for _, p := range points {
		var i, n int
		if _, err := fmt.Sscanf(p.ID, "%d-%d", &i, &n); err != nil {
			t.Fatal(err)
		}
		got := contents(t, r, p)
		if diff := cmp.Diff(want[i], got); n == 9 && diff != "" || len(got) != len(want[i]) {
			t.Errorf("%s (-want +got):\n%s", p.ID, diff)
		}
	}
}

// TestSameID has several processes write the same point, at the same time.
func TestSameID(t *testing.T) {
	bucket := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), bucket.Bucket(), key("secret"), nil); err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		const writers = 4
		var wg, ready sync.WaitGroup
		ready.Add(writers)
		points := make([]*repo.Point, writers)
		for i := range writers {
			wg.Go(func() {
				r, err := repo.Open(t.Context(), bucket.Open(nil).Bucket(), key("secret"), nil)
				if err != nil {
					t.Error(err)
				}
				points[i], err = r.Write(t.Context(), repo.WriteOptions{ID: fmt.Sprint("p", round)}, func(ctx context.Context, w *repo.Writer) error {
					err := w.PutStream(ctx, "v", strings.NewReader(fmt.Sprint("content of ", i)))
					ready.Done()
					ready.Wait() // all of them come to the commit
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		r := reopen(t, bucket.Bucket())
		first := contents(t, r, points[0])
		for _, p := range points[1:] {
			if diff := cmp.Diff(first, contents(t, r, p)); diff != "" || !p.Time.Equal(points[0].Time) {
				t.Errorf("round %d: two points (-one +other):\n%s", round, diff)
			}
		}
	}
	healthy(t, reopen(t, bucket.Bucket()), 20)
}

// TestReadersAndWriters shares one Repository: whoever opens a point that was
// committed must be able to read it, whatever others refresh meanwhile.
func TestReadersAndWriters(t *testing.T) {
	// Lists that take long make old views arrive after new ones.
	var slow atomic.Bool
	bucket := repotest.NewBucket(nil)
	process := bucket.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.Get && strings.HasPrefix(op.Key, "point/") && slow.Load() {
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond) // real time: this is about real races
		}
		return repotest.Fault{}
	}})
	r, err := repo.Init(t.Context(), process.Bucket(), key("secret"), &repo.Options{CacheBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	slow.Store(true)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 15 {
				content := random(uint64(100*i+n), 500)
				p, err := r.Write(t.Context(), repo.WriteOptions{ID: fmt.Sprint(i, "-", n)}, func(ctx context.Context, w *repo.Writer) error {
					return w.PutStream(ctx, "v", bytes.NewReader(content))
				})
				if err != nil {
					t.Error(err)
					return
				}
				tr, err := r.Tree(t.Context(), p, "v")
				if err != nil {
					t.Error(err)
					return
				}
				for range 20 {
					e, err := tr.Entry(t.Context(), ".")
					if err != nil {
						t.Errorf("point %s: %v", p.ID, err)
						return
					}
					var got bytes.Buffer
					if _, err := tr.WriteTo(t.Context(), &got, e); err != nil || !bytes.Equal(got.Bytes(), content) {
						t.Errorf("point %s: %v", p.ID, err)
						return
					}
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
}

// TestVolumesInParallel stores many volumes in one session at once.
func TestVolumesInParallel(t *testing.T) {
	r, b := newRepo(t)
	dir := sample(t)
	p, err := r.Write(t.Context(), repo.WriteOptions{ID: "p"}, func(ctx context.Context, w *repo.Writer) error {
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = w.Put(ctx, fmt.Sprint("v", i), dir) })
		}
		wg.Wait()
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for path, desc := range onDisk(t, dir) {
		for i := range 8 {
			want[strings.Replace(path, "v", fmt.Sprint("v", i), 1)] = desc
		}
	}
	if diff := cmp.Diff(want, contents(t, reopen(t, b), p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p.Stats.Bytes < 7*p.Stats.New {
		t.Errorf("equal volumes are not shared: %+v", p.Stats)
	}
}

// TestCancelAtRandom cancels sessions and verifications at random moments, on
// a real directory, and counts goroutines.
func TestCancelAtRandom(t *testing.T) {
	bucket, err := dirbucket.OpenBucket(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer bucket.Close()
	r, err := repo.Init(t.Context(), bucket, key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := sample(t)
	start := time.Now()
	write(t, r, "whole", dir)
	took := time.Since(start)
	before := runtime.NumGoroutine()
	cancelled := 0
	for i := range 40 {
		put(t, dir, "fresh", random(uint64(i), 3<<20))
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(took))
		_, err := r.Write(ctx, repo.WriteOptions{ID: fmt.Sprint(i), Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
			return w.Put(ctx, "v", dir)
		})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err != nil {
			cancelled++
		}
		if _, err := r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull}); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines before, %d after\n%s", before, n, buf[:runtime.Stack(buf, true)])
	}
	t.Logf("%d of 40 sessions were cancelled", cancelled)
	if rep := verify(t, r, true); len(rep.Damage) > 0 {
		t.Errorf("%+v", rep)
	}
}
