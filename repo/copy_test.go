// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// place is a repository in a bucket that counts what is read and written.
type place struct {
	*repo.Repository
	bucket *repotest.Bucket
	read   atomic.Int64 // bytes of packs
	puts   atomic.Int64
	fault  atomic.Pointer[func(repotest.Op) repotest.Fault]
}

// newTarget returns where to copy to: with raw, to a repository that has the keys
// of src, so that packs can be taken as they are.
func newTarget(tb testing.TB, src *place, raw bool) *place {
	tb.Helper()
	if raw {
		return newPlace(tb, src)
	}
	return newPlace(tb, nil)
}

// newPlace returns a new repository, or one that has the keys of another.
func newPlace(tb testing.TB, replicaOf *place) *place {
	tb.Helper()
	pl := &place{}
	world := repotest.NewBucket(nil)
	pl.bucket = world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		switch {
		case op.Kind == repotest.Get && strings.HasPrefix(op.Key, "pack/"):
			pl.read.Add(op.Length)
		case op.Kind == repotest.PutOnce || op.Kind == repotest.Put:
			pl.puts.Add(1)
		}
		if f := pl.fault.Load(); f != nil {
			return (*f)(op)
		}
		return repotest.Fault{}
	}})
	b := pl.bucket.Bucket()
	var err error
	if replicaOf == nil {
		_, err = repo.Init(tb.Context(), b, key("secret"), nil)
	} else {
		copyObjects(tb, replicaOf.bucket.Bucket(), b, "protect.")
		copyObjects(tb, replicaOf.bucket.Bucket(), b, "key/")
		copyObjects(tb, replicaOf.bucket.Bucket(), b, "epoch/")
	}
	if err == nil {
		pl.Repository, err = repo.Open(tb.Context(), b, key("secret"), nil)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return pl
}

func copyObjects(tb testing.TB, from, to *blob.Bucket, prefix string) {
	tb.Helper()
	for _, k := range list(tb, from, prefix) {
		b, err := from.ReadAll(tb.Context(), k)
		if err == nil {
			err = to.WriteAll(tb.Context(), k, b, nil)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func list(tb testing.TB, b *blob.Bucket, prefix string) []string {
	tb.Helper()
	var keys []string
	page, next, err := b.ListPage(tb.Context(), blob.FirstPageToken, 1000, &blob.ListOptions{Prefix: prefix})
	if err != nil || len(next) > 0 {
		tb.Fatal(err, next)
	}
	for _, o := range page {
		keys = append(keys, o.Key)
	}
	return keys
}

// commit stores a directory, an image and a stream.
func commit(tb testing.TB, r *repo.Repository, id, dir string, image, stream []byte) {
	tb.Helper()
	_, err := r.Write(tb.Context(), repo.WriteOptions{
		ID: id, Name: "app", Level: "application", Labels: map[string]string{"tier": "gold"},
		Evidence: map[string]map[string][]byte{"db": {"lsn": []byte("1/2")}},
	}, func(ctx context.Context, w *repo.Writer) error {
		return errors.Join(
			w.Put(ctx, "files", dir),
			w.PutBlocks(ctx, "image", bytes.NewReader(image), int64(len(image)), nil),
			w.PutStream(ctx, "stream", bytes.NewReader(stream)),
		)
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// copyAll copies everything, which must work.
func copyAll(tb testing.TB, src, dst *place) *repo.CopyReport {
	tb.Helper()
	rep, err := src.CopyTo(tb.Context(), dst.Repository, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return rep
}

// same checks that the target has what the source has.
func same(tb testing.TB, src, dst *place) {
	tb.Helper()
	a, err := src.Points(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range a {
		q, err := dst.Point(tb.Context(), p.ID)
		if err != nil {
			tb.Error(err)
			continue
		}
		if diff := cmp.Diff(contents(tb, src.Repository, p), contents(tb, dst.Repository, q)); diff != "" {
			tb.Errorf("point %q (-source +copy):\n%s", p.ID, diff)
		}
		if !q.Committed.Equal(p.Committed) || q.Origin == "" {
			tb.Errorf("point %q was committed %v, its copy %v, origin %q", p.ID, p.Committed, q.Committed, q.Origin)
		}
		p.Committed, q.Committed, p.Origin, q.Origin = time.Time{}, time.Time{}, "", ""
		p.Stats, q.Stats = repo.Stats{}, repo.Stats{}
		if diff := cmp.Diff(publicOf(p), publicOf(q)); diff != "" {
			tb.Errorf("record of %q (-source +copy):\n%s", p.ID, diff)
		}
	}
	b, err := dst.Points(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	healthy(tb, dst.Repository, len(b))
}

// publicOf returns what a user sees of a point.
func publicOf(p *repo.Point) any {
	type volume struct {
		Name                        string
		Files, Dirs, Bytes, Skipped int64
	}
	vols := []volume{}
	for _, v := range p.Volumes {
		vols = append(vols, volume{v.Name, v.Files, v.Dirs, v.Bytes, v.Skipped})
	}
	return []any{p.ID, p.Name, p.Time, p.Level, p.Labels, p.Evidence, vols}
}

// threePoints commits three points that build on each other.
func threePoints(tb testing.TB, src *place) {
	tb.Helper()
	dir := sample(tb)
	put(tb, dir, "big", random(1, 5<<20))
	put(tb, dir, "hole", append(make([]byte, 3<<20), random(2, 100_000)...))
	image := append(bytes.Repeat(random(3, 16<<10)[:16<<10], 64), make([]byte, 20<<20)...)
	copy(image[9<<20:], random(4, 4<<20))
	stream := random(5, 3<<20)
	commit(tb, src.Repository, "one", dir, image, stream)

	put(tb, dir, "new", []byte("new"))
	put(tb, dir, "big", append(random(1, 5<<20)[:4<<20], random(6, 100_000)...))
	copy(image[10<<20:], random(7, 20_000))
	copy(image[20<<20:], random(8, 20_000))
	commit(tb, src.Repository, "two", dir, image, stream)

	if err := os.Remove(dir + "/new"); err != nil {
		tb.Fatal(err)
	}
	copy(image[10<<20:], random(9, 10_000))
	commit(tb, src.Repository, "three", dir, image[:len(image)-5000], append(stream, 1, 2, 3))
}

func TestCopy(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		name := map[bool]string{false: "other keys", true: "same keys"}[raw]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := newPlace(t, nil)
			threePoints(t, src)
			dst := newTarget(t, src, raw)
			rep := copyAll(t, src, dst)
			if diff := cmp.Diff([]string{"one", "two", "three"}, rep.Copied); diff != "" || len(rep.Present) > 0 || rep.New == 0 {
				t.Errorf("copied (-want +got):\n%s%+v", diff, rep)
			}
			same(t, src, dst)

			// Again: nothing to do, nothing done.
			puts, read := dst.puts.Load(), src.read.Load()
			rep = copyAll(t, src, dst)
			if len(rep.Copied) > 0 || len(rep.Present) != 3 || rep.New != 0 || dst.puts.Load() != puts || src.read.Load() != read {
				t.Errorf("the second copy: %+v, %d puts, %d bytes read", rep, dst.puts.Load()-puts, src.read.Load()-read)
			}
			// And back: what comes from here is here.
			if rep = copyAll(t, dst, src); len(rep.Copied) > 0 || len(rep.Present) != 3 {
				t.Errorf("the copy back: %+v", rep)
			}
		})
	}
}

// TestCopyIncremental reads from the source what is new, although nothing is
// remembered from the copy before.
func TestCopyIncremental(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		src := newPlace(t, nil)
		dir := t.TempDir()
		for i := range 40 {
			put(t, dir, "small/"+string(rune('a'+i)), random(uint64(i), 20_000))
		}
		put(t, dir, "big", random(100, 8<<20))
		image := random(101, 16<<20)
		commit(t, src.Repository, "one", dir, image, nil)
		dst := newTarget(t, src, raw)
		copyAll(t, src, dst)
		full := src.read.Load()
		put(t, dir, "small/c", random(300, 20_000))
		copy(image[5<<20:], random(301, 50_000))
		commit(t, src.Repository, "two", dir, image, nil)

		// Both are opened anew.
		for _, pl := range []*place{src, dst} {
			r, err := repo.Open(t.Context(), pl.bucket.Bucket(), key("secret"), nil)
			if err != nil {
				t.Fatal(err)
			}
			pl.Repository = r
		}
		src.read.Store(0)
		dst.read.Store(0)
		rep := copyAll(t, src, dst)
		if got := src.read.Load(); full < 20<<20 || got > 1<<20 {
			t.Errorf("raw=%t: %d bytes read from the source for a change, %d for all", raw, got, full)
		}
		if rep.New > 400_000 {
			t.Errorf("raw=%t: %d bytes new", raw, rep.New)
		}
		same(t, src, dst)
	}
}

// TestCopyChosen copies some points, and says which are not there.
func TestCopyChosen(t *testing.T) {
	t.Parallel()
	src, dst := newPlace(t, nil), newPlace(t, nil)
	dir := sample(t)
	for _, id := range []string{"one", "two", "three"} {
		commit(t, src.Repository, id, dir, nil, nil)
	}
	var seen []string
	rep, err := src.CopyTo(t.Context(), dst.Repository, []string{"three", "nothing", "one", "one"}, &repo.CopyOptions{
		Progress: func(id string, _ repo.Progress) { seen = append(seen, id) },
	})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("a point that is not there: %v", err)
	}
	if want := []string{"one", "three"}; !slices.Equal(rep.Copied, want) || !slices.Equal(slices.Compact(seen), want) {
		t.Errorf("copied %q, progress %q", rep.Copied, seen)
	}
	healthy(t, dst.Repository, 2)
}

// TestCopyConflict leaves a different point of the same ID alone, and copies the
// others.
func TestCopyConflict(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		src := newPlace(t, nil)
		dst := newTarget(t, src, raw)
		dir := sample(t)
		commit(t, src.Repository, "one", dir, nil, nil)
		commit(t, src.Repository, "two", dir, nil, nil)
		commit(t, dst.Repository, "one", dir, nil, []byte("another"))
		rep, err := src.CopyTo(t.Context(), dst.Repository, nil, nil)
		if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), `"one"`) || !slices.Equal(rep.Copied, []string{"two"}) {
			t.Errorf("raw=%t: %+v, %v", raw, rep, err)
		}
		p, err := dst.Point(t.Context(), "one")
		if err != nil || p.Origin != "" {
			t.Errorf("raw=%t: point one: %+v, %v", raw, p, err)
		}
		healthy(t, dst.Repository, 2)
	}
}

// TestCopyChain copies a copy: all three know that it is one point.
func TestCopyChain(t *testing.T) {
	t.Parallel()
	a, b, c := newPlace(t, nil), newPlace(t, nil), newPlace(t, nil)
	threePoints(t, a)
	copyAll(t, a, b)
	copyAll(t, b, c)
	same(t, a, c)
	for _, pair := range [][2]*place{{a, c}, {c, a}, {c, b}} {
		if rep := copyAll(t, pair[0], pair[1]); len(rep.Copied) > 0 || len(rep.Present) != 3 {
			t.Errorf("%+v", rep)
		}
	}
	p, err := c.Point(t.Context(), "one")
	if err != nil || p.Origin != a.ID() {
		t.Errorf("origin %q, want %q: %v", p.Origin, a.ID(), err)
	}
}
