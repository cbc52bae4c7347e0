// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// faults are what a sweep does to each call.
var faults = []repotest.Fault{
	{Kill: true},
	{Action: repotest.FailBefore},
	{Action: repotest.FailAfter},
	{Action: repotest.Hang},
	{Action: repotest.HangAfter},
	{Action: repotest.Late},
	{Action: repotest.FailAfter, Kill: true},
	{Action: repotest.Late, Kill: true},
}

func synctestRun(t *testing.T, fn func(*testing.T)) { t.Helper(); synctest.Test(t, fn) }

// epochs counts the sealed objects by their epoch.
func epochs(b *repotest.Bucket, prefixes ...string) map[uint32]int {
	n := map[uint32]int{}
	for name, data := range b.Objects() {
		for _, p := range prefixes {
			if strings.HasPrefix(name, p) {
				n[binary.LittleEndian.Uint32(data)]++
			}
		}
	}
	return n
}

func TestRotateKeys(t *testing.T) {
	b := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), b.Bucket(), key("old"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, dir := t.Context(), sample(t)
	left := addKey(t, r, key("left behind"))
	before := contents(t, r, write(t, r, "before", dir))
	other := mustOpen(t, b.Bucket(), key("left behind"))
	kept := b.Objects() // what somebody has copied
	if err := r.RotateKeys(ctx, key("new"), keeper(t, 1, "kms")); err != nil {
		t.Fatal(err)
	}
	if got := slots(t, r); len(got) != 2 || got[0].Problem+got[1].Problem != "" {
		t.Errorf("slots: %+v", got)
	}

	// This handle goes on, under the new epoch, and stores nothing again.
	old := epochs(b, "point/", "session/", "index/")
	if p := write(t, r, "after", dir); p.Stats.New > 0 {
		t.Errorf("%d bytes were stored again", p.Stats.New)
	}
	if now := epochs(b, "point/", "session/", "index/"); now[0] != old[0] || now[1] == 0 || len(now) != 2 {
		t.Errorf("sealed under %v, before under %v", now, old)
	}

	// Another one is told to open again; it still reads what is old.
	if err := writes(ctx, other, "late"); !errors.Is(err, repo.ErrKey) || !strings.HasSuffix(err.Error(), "open the repository again") {
		t.Errorf("a session under the old epoch: %v", err)
	}
	if _, err := other.AddKey(ctx, key("x")); !errors.Is(err, repo.ErrKey) {
		t.Errorf("a key for the old epoch: %v", err)
	}
	if err := other.RemoveKey(ctx, left); !errors.Is(err, repo.ErrKey) {
		t.Errorf("removal under the old epoch: %v", err)
	}
	if err := other.RotateKeys(ctx, key("x")); !errors.Is(err, repo.ErrKey) {
		t.Errorf("rotation of the old epoch: %v", err)
	}
	p, err := other.Point(ctx, "before")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, contents(t, other, p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := other.Point(ctx, "after"); !errors.Is(err, repo.ErrKey) || errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("an old key reads what is new: %v", err)
	}

	for _, k := range []repo.Key{key("new"), keeper(t, 1, "")} {
		r := mustOpen(t, b.Bucket(), k)
		healthy(t, r, 2)
		for _, id := range []string{"before", "after"} {
			p, err := r.Point(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, contents(t, r, p)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", id, diff)
			}
		}
	}
	for name, data := range kept { // the slots of the old epoch come back
		if strings.HasPrefix(name, "key/") {
			b.Set(name, data)
		}
	}
	for _, pass := range []string{"old", "left behind"} {
		if _, err := repo.Open(ctx, b.Bucket(), key(pass), nil); !errors.Is(err, repo.ErrKey) {
			t.Errorf("the key %q: %v", pass, err)
		}
	}
	problems := 0
	for _, s := range slots(t, r) {
		if s.Problem == "opens what was written up to key epoch 0, not what is written now" {
			problems++
		}
	}
	if problems != 2 {
		t.Errorf("slots: %+v", slots(t, r))
	}
	if err := r.RotateKeys(ctx, key("new")); err != nil {
		t.Fatal(err)
	}
	if got := slots(t, r); len(got) != 1 {
		t.Errorf("slots: %+v", got)
	}
	again := mustOpen(t, b.Bucket(), key("new"))
	write(t, again, "last", dir)
	healthy(t, again, 3)
	if n := epochs(b, "point/"); n[0] != 1 || n[1] != 1 || n[2] != 1 {
		t.Errorf("points by epoch: %v", n)
	}
}

// TestRotateAtOnce runs one rotation within another, at each of its store calls.
// One of them takes place, or both after each other, and nobody is locked out.
func TestRotateAtOnce(t *testing.T) {
	base := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), base.Bucket(), key("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := contents(t, r, write(t, r, "p", sample(t)))
	seen := map[string]int{}
	for i, more := 0, true; more; i++ {
		world := base.Clone(nil)
		second := mustOpen(t, world.Open(nil).Bucket(), key("a"))
		armed, calls := false, atomic.Int32{}
		var serr error
		first := mustOpen(t, world.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault {
			if armed {
				if calls.Add(1)-1 == int32(i) {
					serr = second.RotateKeys(t.Context(), key("b"))
				}
			}
			return repotest.Fault{}
		}}).Bucket(), key("a"))
		armed = true
		ferr := first.RotateKeys(t.Context(), key("c"))
		if more = int(calls.Load()) > i; !more {
			break
		}
		outcome := ""
		for _, rot := range []struct {
			pass string
			err  error
			r    *repo.Repository
		}{{"b", serr, second}, {"c", ferr, first}} {
			got, oerr := repo.Open(t.Context(), world.Bucket(), key(rot.pass), nil)
			if rot.err != nil && !errors.Is(rot.err, repo.ErrKey) || (oerr == nil) != (rot.err == nil) || oerr != nil && !errors.Is(oerr, repo.ErrKey) {
				t.Errorf("call %d, %s: %v, then %v", i, rot.pass, rot.err, oerr)
			}
			if oerr == nil {
				outcome += rot.pass
				healthy(t, got, 1)
				p, err := got.Point(t.Context(), "p")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, contents(t, got, p)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if err := errors.Join(writes(t.Context(), got, "q"), writes(t.Context(), rot.r, "r")); err != nil {
					t.Errorf("call %d, %s: %v", i, rot.pass, err)
				}
			}
		}
		seen[outcome]++
		if n := len(slots(t, mustOpen(t, world.Bucket(), key(outcome)))); n != 1 {
			t.Errorf("call %d: %d slots are left", i, n)
		}
	}
	if seen["b"] == 0 || seen["c"] == 0 || len(seen) != 2 {
		t.Errorf("outcomes: %v", seen)
	}
}

// TestRotateInParallel has many processes rotate again and again.
func TestRotateInParallel(t *testing.T) {
	b := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), b.Bucket(), key("shared"), nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make([]int, 4)
	for i := range done {
		wg.Go(func() {
			for n := range 8 {
				r, err := repo.Open(t.Context(), b.Open(nil).Bucket(), key("shared"), nil)
				if err == nil {
					err = writes(t.Context(), r, fmt.Sprintf("%d-%d", i, n))
				}
				if err == nil {
					err = r.RotateKeys(t.Context(), key("shared"))
				}
				if err == nil {
					done[i]++
				} else if !errors.Is(err, repo.ErrKey) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r := mustOpen(t, b.Bucket(), key("shared"))
	points, err := r.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	healthy(t, r, len(points))
	if n := len(slots(t, r)); n < 1 {
		t.Errorf("%d slots", n)
	}
	t.Logf("rotations: %v, points: %d", done, len(points))
}

// TestSweepRotate fails every store call of a rotation. Whatever happens, the
// old keys open the repository, or the new ones, for writing, and all is there.
func TestSweepRotate(t *testing.T) {
	base := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), base.Bucket(), key("old"), nil)
	if err != nil {
		t.Fatal(err)
	}
	addKey(t, r, key("also old"))
	dir := t.TempDir()
	put(t, dir, "file", random(1, 1000))
	write(t, r, "p", dir)
	counts := map[string]int{}
	for _, f := range faults {
		for _, attempts := range []int{1, 3} {
			for i, more := 0, true; more; i++ {
				what := fmt.Sprintf("%v at call %d, %d attempts", f, i, attempts)
				synctestRun(t, func(t *testing.T) {
					world := base.Clone(nil)
					process := world.Open(&repotest.Options{Fault: repotest.At(i, f)})
					r, err := repo.Open(t.Context(), process.Bucket(), key("old"), &repo.Options{Attempts: attempts})
					if err == nil {
						err = r.RotateKeys(t.Context(), key("new"), key("also new"))
					}
					if more = len(process.Calls()) > i; !more {
						return
					}
					counts["runs"]++
					late := world.Clone(nil)
					late.Settle()
					for name, w := range map[string]*repotest.Bucket{"now": world, "settled": late} {
						counts[afterRotation(t, w, what+", "+name, err)]++
					}
				})
			}
		}
	}
	t.Log(counts)
	if counts["old"] == 0 || counts["new"] == 0 {
		t.Errorf("the sweep did not reach what it should: %v", counts)
	}
}

// afterRotation returns which keys open the repository for writing.
func afterRotation(t *testing.T, b *repotest.Bucket, what string, rotated error) string {
	t.Helper()
	work := map[string]*repo.Repository{}
	for _, pass := range []string{"old", "also old", "new", "also new"} {
		r, err := repo.Open(t.Context(), b.Bucket(), key(pass), nil)
		if err != nil {
			if !errors.Is(err, repo.ErrKey) {
				t.Errorf("%s: open with %q: %v", what, pass, err)
			}
			continue
		}
		if err := canWrite(t, b, key(pass)); err == nil {
			healthy(t, r, 1)
			work[pass] = r
		} else if !errors.Is(err, repo.ErrKey) {
			t.Errorf("%s: write with %q: %v", what, pass, err)
		}
	}
	old, now := work["old"] != nil && work["also old"] != nil, work["new"] != nil && work["also new"] != nil
	if old == now || len(work) != 2 {
		t.Errorf("%s: %d keys work, among them the old ones %t, the new ones %t; %v", what, len(work), old, now, rotated)
		return "none"
	}
	if rotated == nil && old {
		t.Errorf("%s: the rotation did not take place", what)
	}
	name := "old"
	if now {
		name = "new"
	}
	// What a crash left does not keep anybody from rotating again.
	if err := work[name].RotateKeys(t.Context(), key("again")); err != nil {
		t.Errorf("%s: once more: %v", what, err)
	}
	r := mustOpen(t, b.Bucket(), key("again"))
	if n := len(slots(t, r)); n != 1 {
		t.Errorf("%s: %d slots are left", what, n)
	}
	if err := writes(t.Context(), r, "q"); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	healthy(t, r, 2)
	return name
}

// canWrite tries on a copy of the world.
func canWrite(t *testing.T, b *repotest.Bucket, k repo.Key) error {
	t.Helper()
	r, err := repo.Open(t.Context(), b.Clone(nil).Bucket(), k, nil)
	if err != nil {
		return err
	}
	return writes(t.Context(), r, "try")
}
