// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// writeStream writes a point with one stream.
func writeStream(tb testing.TB, r *repo.Repository, id string, data []byte) *repo.Point {
	tb.Helper()
	p, err := r.Write(tb.Context(), repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.PutStream(ctx, "v", bytes.NewReader(data))
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// ids returns the IDs of all points, in order.
func ids(tb testing.TB, r *repo.Repository) []string {
	tb.Helper()
	points, err := r.Points(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for _, p := range points {
		out = append(out, p.ID)
	}
	slices.Sort(out)
	return out
}

func initRepo(tb testing.TB) (*repo.Repository, *repotest.Bucket) {
	tb.Helper()
	b := repotest.NewBucket(nil)
	r, err := repo.Init(tb.Context(), b.Bucket(), key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r, b
}

func TestForget(t *testing.T) {
	r, b := initRepo(t)
	writeStream(t, r, "one", random(1, 300))
	first := writeStream(t, r, "two", random(2, 300))
	if err := r.Forget(t.Context(), "one", "absent", "two"); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]*repo.Repository{"here": r, "elsewhere": reopen(t, b.Bucket())} {
		if got := ids(t, r); len(got) > 0 {
			t.Errorf("%s: %q are left", what, got)
		}
		if _, err := r.Point(t.Context(), "one"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.Forget(t.Context(), "one"); err != nil {
		t.Errorf("again: %v", err)
	}
	// The ID is free again, and is another point then.
	if p := writeStream(t, r, "two", random(3, 300)); p.Stats.New == 0 || p.Time.Equal(first.Time) {
		t.Errorf("written again: %+v", p)
	}
	if got := ids(t, reopen(t, b.Bucket())); !slices.Equal(got, []string{"two"}) {
		t.Errorf("points %q", got)
	}
	if err := r.Forget(t.Context(), "\x00"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("invalid ID: %v", err)
	}
}

// TestForgottenOrNot damages what says that a point is forgotten. Whoever wrote it
// again must not be told that it is there: once that is repaired, it is not.
func TestForgottenOrNot(t *testing.T) {
	r, b := initRepo(t)
	old := random(1, 300)
	writeStream(t, r, "one", old)
	writeStream(t, r, "two", old)
	if err := r.Forget(t.Context(), "one", "two"); err != nil {
		t.Fatal(err)
	}
	data := random(2, 300)
	writeStream(t, r, "two", data)
	for _, key := range b.Keys() {
		if kindOf(key) == "closed/" && !b.Flip(key, 300) {
			t.Fatal("nothing was damaged")
		}
	}
	_, err := reopen(t, b.Bucket()).Write(t.Context(), repo.WriteOptions{ID: "one", Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.PutStream(ctx, "v", bytes.NewReader(data))
	})
	if !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("written again, which nobody can know: %v", err)
	}
	src, _ := initRepo(t)
	writeStream(t, src, "one", old)
	if rep, err := src.CopyTo(t.Context(), reopen(t, b.Bucket()), nil, nil); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("copied to it: %+v, %v", rep, err)
	}
	for range 10 { // of several attempts, only the last one can be live
		r := reopen(t, b.Bucket())
		p, err := r.Point(t.Context(), "two")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, r, p, "."), data) {
			t.Fatal("the forgotten point is back, and not the one that followed it")
		}
	}
}

func TestHold(t *testing.T) {
	r, b := initRepo(t)
	writeStream(t, r, "one", random(1, 300))
	writeStream(t, r, "two", random(2, 300))
	for _, holder := range []string{"case 1", "case 2", "case 1"} {
		if err := r.Hold(t.Context(), "one", holder); err != nil {
			t.Fatal(err)
		}
	}
	other := reopen(t, b.Bucket())
	holders, err := other.Holders(t.Context(), "one")
	if err != nil || !slices.Equal(holders, []string{"case 1", "case 2"}) {
		t.Errorf("holders %q, %v", holders, err)
	}
	for _, release := range []string{"case 3", "case 1", "case 2"} {
		if err := other.Forget(t.Context(), "two", "one"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("forget: %v", err)
		}
		if got := ids(t, other); !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("a point that is held is gone, or one beside it: %q", got)
		}
		if err := r.Release(t.Context(), "one", release); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Forget(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	if err := r.Hold(t.Context(), "one", "late"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("hold of a forgotten point: %v", err)
	}
	if err := r.Release(t.Context(), "one", "late"); err != nil {
		t.Errorf("release of a forgotten point: %v", err)
	}
	if err := r.Hold(t.Context(), "two", ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("nobody holds: %v", err)
	}
}

// TestHoldCancelled cancels Hold when its mark is there. What was not held must not
// keep the point from being forgotten.
func TestHoldCancelled(t *testing.T) {
	r, b := initRepo(t)
	writeStream(t, r, "one", random(1, 300))
	ctx, cancel := context.WithCancel(t.Context())
	process := b.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.List && kindOf(op.Key) == "forget/" {
			cancel()
		}
		return repotest.Fault{}
	}})
	if err := reopen(t, process.Bucket()).Hold(ctx, "one", "case 1"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), "one"); err != nil {
		t.Error(err)
	}
}

// TestHoldOrForget lets a hold and a forget meet at every store call. Of the
// two, at most one succeeds; and what is held is there.
func TestHoldOrForget(t *testing.T) {
	_, base := initRepo(t)
	writeStream(t, reopen(t, base.Bucket()), "one", random(1, 300))
	for _, first := range []string{"hold", "forget"} {
		for i, more := 0, true; more; i++ {
			b := base.Clone(nil)
			act := func(what string, r *repo.Repository) error {
				if what == "hold" {
					return r.Hold(t.Context(), "one", "case")
				}
				return r.Forget(t.Context(), "one")
			}
			second := map[string]string{"hold": "forget", "forget": "hold"}[first]
			var err2 error
			met, calls := false, 0
			r := reopen(t, b.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault {
				if calls++; calls == i+1 && !met {
					met = true
					err2 = act(second, reopen(t, b.Bucket()))
				}
				return repotest.Fault{}
			}}).Bucket())
			calls = 0
			err1 := act(first, r)
			more = met
			there := len(ids(t, reopen(t, b.Bucket()))) == 1
			held := map[string]error{first: err1, second: err2}["hold"] == nil
			forgot := map[string]error{first: err1, second: err2}["forget"] == nil
			if met && (held && forgot || held != there && held || forgot == there) {
				t.Errorf("%s, interrupted at call %d: %v and %v, there: %t", first, i, err1, err2, there)
			}
		}
	}
}

func TestHead(t *testing.T) {
	r, b := initRepo(t)
	type state struct {
		head   string
		bucket *repotest.Bucket
	}
	var states []state
	keep := func() {
		head, err := r.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, state{head: head, bucket: b.Clone(nil)})
	}
	keep()
	for i, id := range []string{"one", "two", "three"} {
		writeStream(t, r, id, random(uint64(i), 300))
		keep()
	}
	for _, id := range []string{"three", "one"} {
		if err := r.Forget(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		keep()
	}
	for i, then := range states {
		for j, now := range states {
			_, err := repo.Open(t.Context(), now.bucket.Bucket(), key("secret"), &repo.Options{Head: then.head})
			if back := j < i; back != errors.Is(err, repo.ErrRollback) || !back && err != nil {
				t.Errorf("state %d with the head of state %d: %v", j, i, err)
			}
		}
	}
	// Another repository's history, and texts that are no heads.
	other, ob := initRepo(t)
	writeStream(t, other, "one", random(0, 300))
	if _, err := repo.Open(t.Context(), ob.Bucket(), key("secret"), &repo.Options{Head: states[1].head}); !errors.Is(err, repo.ErrRollback) {
		t.Errorf("head of another repository: %v", err)
	}
	for _, bad := range []string{"x", "1:", states[1].head + "0x", "2" + states[1].head[1:]} {
		if _, err := repo.Open(t.Context(), b.Bucket(), key("secret"), &repo.Options{Head: bad}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("head %q: %v", bad, err)
		}
	}
}
