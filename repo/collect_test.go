// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// all is a collection for when nobody else is at work.
var all = repo.CollectOptions{StaleAfter: -1, MaxDelete: 1}

// piece is a volume of one chunk of its own.
func piece(n int) []byte { return random(uint64(1000+n), 4000) }

// store writes a point whose volumes are the streams of these numbers.
func store(tb testing.TB, r *repo.Repository, id string, streams ...int) *repo.Point {
	tb.Helper()
	p, err := storeWith(tb.Context(), r, id, streams, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// storeWith is store, and calls fn before the commit.
func storeWith(ctx context.Context, r *repo.Repository, id string, streams []int, fn func()) (*repo.Point, error) {
	name, _, _ := strings.Cut(id, "-")
	return r.Write(ctx, repo.WriteOptions{ID: id, Name: name}, func(ctx context.Context, w *repo.Writer) error {
		for _, n := range streams {
			if err := w.PutStream(ctx, fmt.Sprint(n), bytes.NewReader(piece(n))); err != nil {
				return err
			}
		}
		if fn != nil {
			fn()
		}
		return nil
	})
}

// intact fails unless exactly these points are there, with these streams.
func intact(tb testing.TB, r *repo.Repository, want map[string][]int) {
	tb.Helper()
	points, err := r.Points(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	var ids []string
	for _, p := range points {
		ids = append(ids, p.ID)
		streams := map[string]string{}
		for _, n := range want[p.ID] {
			streams[fmt.Sprint(n)] = describe("file", 0o600, "", piece(n))
		}
		if diff := cmp.Diff(streams, contents(tb, r, p)); diff != "" {
			tb.Errorf("%s (-want +got):\n%s", p.ID, diff)
		}
	}
	slices.Sort(ids)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), ids); diff != "" {
		tb.Errorf("points (-want +got):\n%s", diff)
	}
	if rep := verify(tb, r, true); len(rep.Damage)+len(rep.Unknown) > 0 {
		tb.Errorf("verify: %+v", rep)
	}
}

func collect(tb testing.TB, b *repotest.Bucket, o repo.CollectOptions) *repo.CollectReport {
	tb.Helper()
	rep, err := reopen(tb, b.Bucket()).Collect(tb.Context(), &o)
	if err != nil {
		tb.Fatal(err)
	}
	return rep
}

func newWorld(tb testing.TB) (*repotest.Bucket, *repo.Repository) {
	tb.Helper()
	world := repotest.NewBucket(nil)
	r, err := repo.Init(tb.Context(), world.Bucket(), key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return world, r
}

func packs(b *repotest.Bucket) (n int) {
	for _, key := range b.Keys() {
		if strings.HasPrefix(key, "pack/") {
			n++
		}
	}
	return n
}

// settled collects until nothing is left to do.
func settled(tb testing.TB, b *repotest.Bucket, o repo.CollectOptions) {
	tb.Helper()
	o.Repack = 1
	for range 10 {
		if collect(tb, b, o).Idle {
			if err := reopen(tb, b.Bucket()).Converged(tb.Context()); err != nil {
				tb.Errorf("converged with something to do: %v", err)
			}
			return
		}
	}
	tb.Errorf("10 collections do not settle: %v", reopen(tb, b.Bucket()).Converged(tb.Context()))
}

func TestCollect(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1, 2, 3)
	store(t, r, "b-1", 3, 4)
	store(t, r, "a-2", 2, 5)
	if err := r.Forget(t.Context(), "a-1"); err != nil {
		t.Fatal(err)
	}
	before, dry := world.Keys(), all
	dry.DryRun = true
	rep := collect(t, world, dry)
	if diff := cmp.Diff(before, world.Keys()); diff != "" {
		t.Errorf("a dry run changed something (-before +after):\n%s", diff)
	}
	// The tree of a-1 is garbage; of its three streams, two are needed.
	if rep.Condemned != 1 || rep.Points != 2 || rep.Packs != 6 || rep.Freed == 0 || rep.Deleted != 0 {
		t.Errorf("dry run: %+v", rep)
	}
	freed := rep.Freed
	rep = collect(t, world, all)
	if rep.Condemned != 1 || rep.Deleted != 1 || rep.Freed != freed || rep.Remaining != 0 || rep.Rewritten != 0 || packs(world) != 5 {
		t.Errorf("%+v", rep)
	}
	want := map[string][]int{"b-1": {3, 4}, "a-2": {2, 5}}
	intact(t, r, want)
	intact(t, reopen(t, world.Bucket()), want)

	rewrite := all
	rewrite.Repack = 0.9 // a third of the first pack is not needed
	if rep = collect(t, world, rewrite); rep.Condemned != 1 || rep.Deleted != 1 || rep.Rewritten < 8000 || packs(world) != 5 {
		t.Errorf("rewrite: %+v", rep)
	}
	intact(t, r, want)
	intact(t, reopen(t, world.Bucket()), want)
	settled(t, world, all)

	process := world.Open(nil)
	if rep := collect(t, process, repo.CollectOptions{StaleAfter: -1, Repack: 1}); !rep.Idle {
		t.Errorf("nothing has changed: %+v", rep)
	}
	opening := world.Open(nil)
	reopen(t, opening.Bucket())
	for _, op := range process.Calls()[len(opening.Calls()):] {
		if op.Kind != repotest.List {
			t.Errorf("an idle collection calls %v", op)
		}
	}
	if err := r.Forget(t.Context(), "b-1", "a-2"); err != nil {
		t.Fatal(err)
	}
	if rep := collect(t, world, all); rep.Deleted != 5 || packs(world) != 0 {
		t.Errorf("everything: %+v", rep)
	}
	intact(t, r, nil)
	intact(t, reopen(t, world.Bucket()), nil)
	settled(t, world, all)
	store(t, r, "a-1", 1, 2, 3)
	intact(t, reopen(t, world.Bucket()), map[string][]int{"a-1": {1, 2, 3}})
}

// TestCollectTooMuch finds more garbage than it may delete, as if points had
// vanished from the listing.
func TestCollectTooMuch(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1)
	store(t, r, "b-1", 2)
	store(t, r, "c-1", 3)
	if err := r.Forget(t.Context(), "a-1", "b-1"); err != nil {
		t.Fatal(err)
	}
	before := world.Keys()
	if _, err := r.Collect(t.Context(), &repo.CollectOptions{}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, world.Keys()); diff != "" {
		t.Errorf("something was done (-before +after):\n%s", diff)
	}
	if rep := collect(t, world, repo.CollectOptions{MaxDelete: 0.7}); rep.Deleted != 4 {
		t.Errorf("%+v", rep)
	}
}

// TestCollectOptions passes shares that are none: each run would rewrite all packs,
// or delete without a limit.
func TestCollectOptions(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1)
	for _, o := range []repo.CollectOptions{{MaxDelete: -0.1}, {MaxDelete: 1.1}, {MaxDelete: math.NaN()}, {Repack: 1.1}, {Repack: math.NaN()}} {
		if rep, err := reopen(t, world.Bucket()).Collect(t.Context(), &o); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %+v, %v", o, rep, err)
		}
	}
}

// TestCollectOpenSession forgets the point from which a session has taken its
// content: before and after the session's commit, nothing that it needs goes.
func TestCollectOpenSession(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1, 2, 3)
	store(t, r, "z-1", 9)
	waits := func(what string, remaining int) {
		t.Helper()
		if rep := collect(t, world, repo.CollectOptions{MaxDelete: 1}); rep.Deleted != 0 || rep.Open != 1 || rep.Remaining != remaining {
			t.Errorf("%s: %+v", what, rep)
		}
	}
	other := reopen(t, world.Bucket())
	if _, err := storeWith(t.Context(), r, "b-1", []int{1, 2}, func() {
		if err := other.Forget(t.Context(), "a-1"); err != nil {
			t.Fatal(err)
		}
		waits("while the session is open", 2)
		waits("once more", 2)
		// A session that begins now must not rely on what is condemned.
		if _, err := storeWith(t.Context(), other, "c-1", []int{1, 3}, nil); err != nil {
			t.Fatal(err)
		}
		waits("for the first one only", 2)
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]int{"b-1": {1, 2}, "c-1": {1, 3}, "z-1": {9}}
	intact(t, r, want)
	// Stream 2 is nowhere else by now; stream 1 is in the pack of c-1, too.
	rep := collect(t, world, repo.CollectOptions{})
	if rep.Deleted != 2 || rep.Remaining != 0 || rep.Rewritten < 4000 || rep.Rewritten > 8000 {
		t.Errorf("after the session: %+v", rep)
	}
	intact(t, r, want)
	intact(t, reopen(t, world.Bucket()), want)
	settled(t, world, all)
	intact(t, reopen(t, world.Bucket()), want)
}

// TestCollectParent forgets the parent of a session that has pinned it.
func TestCollectParent(t *testing.T) {
	world, r := newWorld(t)
	dir := t.TempDir()
	for i := range 20 {
		put(t, dir, fmt.Sprint("d/", i), random(uint64(i), 3000))
	}
	write(t, r, "one", dir)
	put(t, dir, "d/3", []byte("changed"))
	other := reopen(t, world.Bucket())
	if _, err := r.Write(t.Context(), repo.WriteOptions{ID: "two", Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		if err := other.Forget(ctx, "one"); err != nil {
			return err
		}
		for range 2 {
			if rep := collect(t, world, repo.CollectOptions{MaxDelete: 1, Repack: 1}); rep.Deleted != 0 || rep.Condemned != 0 {
				t.Errorf("the parent is pinned: %+v", rep)
			}
		}
		return w.Put(ctx, "v", dir)
	}); err != nil {
		t.Fatal(err)
	}
	settled(t, world, all)
	r = reopen(t, world.Bucket())
	p, err := r.Point(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(onDisk(t, dir), contents(t, r, p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	healthy(t, r, 1)
}

// TestCollectStale gives up a session that died, and one that did not.
func TestCollectStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world, r := newWorld(t)
		store(t, r, "a-1", 1)
		process := world.Open(nil)
		_, err := storeWith(t.Context(), reopen(t, process.Bucket()), "b-1", []int{2, 3}, process.Kill)
		if err == nil {
			t.Fatal("the process survived")
		}
		time.Sleep(23 * time.Hour)
		if rep := collect(t, world, repo.CollectOptions{}); rep.Open != 1 || rep.Fenced != 0 {
			t.Errorf("after 23 hours: %+v", rep)
		}
		_, err = storeWith(t.Context(), r, "c-1", []int{1, 4}, func() {
			time.Sleep(2 * time.Hour)
			if rep := collect(t, world, repo.CollectOptions{}); rep.Open != 1 || rep.Fenced != 1 {
				t.Errorf("after 25 hours: %+v", rep)
			}
			if rep := collect(t, world, repo.CollectOptions{StaleAfter: time.Hour}); rep.Open != 0 || rep.Fenced != 1 {
				t.Errorf("after 2 hours without a sign of life: %+v", rep)
			}
		})
		if !errors.Is(err, repo.ErrFenced) {
			t.Errorf("a session that was given up: %v", err)
		}
		store(t, r, "c-1", 1, 4)
		store(t, r, "b-1", 2, 3)
		want := map[string][]int{"a-1": {1}, "b-1": {2, 3}, "c-1": {1, 4}}
		intact(t, reopen(t, world.Bucket()), want)
		settled(t, world, all)
		intact(t, reopen(t, world.Bucket()), want)
	})
}

// TestCollectHeld has a hold come while a point is being forgotten: the hold
// wins, and the point goes after its release.
func TestCollectHeld(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1)
	store(t, r, "b-1", 2)
	process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, "forget/") {
			if err := r.Hold(t.Context(), "a-1", "court"); err != nil {
				t.Error(err)
			}
		}
		return repotest.Fault{}
	}})
	if err := reopen(t, process.Bucket()).Forget(t.Context(), "a-1"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("forget: %v", err)
	}
	if rep := collect(t, world, all); rep.Points != 2 || rep.Deleted != 0 {
		t.Errorf("held: %+v", rep)
	}
	intact(t, r, map[string][]int{"a-1": {1}, "b-1": {2}})
	if err := r.Release(t.Context(), "a-1", "court"); err != nil {
		t.Fatal(err)
	}
	if rep := collect(t, world, all); rep.Points != 1 || rep.Deleted != 2 {
		t.Errorf("released: %+v", rep)
	}
	intact(t, reopen(t, world.Bucket()), map[string][]int{"b-1": {2}})
	settled(t, world, all)
}
