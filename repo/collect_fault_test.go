// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// busyWorld is a repository in which a collection has everything to do: packs
// that are garbage, one to rewrite, a chunk to rescue from a condemned pack, a
// dead session, a fence, a Forget that was not completed, and many small sets.
func busyWorld(tb testing.TB) (*repotest.Bucket, map[string][]int) {
	tb.Helper()
	world, r := newWorld(tb)
	want := map[string][]int{}
	keep := func(id string, streams ...int) {
		store(tb, r, id, streams...)
		want[id] = streams
	}
	forget := func(b *repotest.Bucket, id string) {
		tb.Helper()
		if err := reopen(tb, b.Bucket()).Forget(tb.Context(), id); err != nil && !b.Killed() {
			tb.Fatal(err)
		}
	}
	store(tb, r, "garbage-1", 1, 2)
	store(tb, r, "mostly-1", 10, 11, 12, 13)
	keep("some-1", 10)
	forget(world, "garbage-1")
	forget(world, "mostly-1")
	for i := range 9 { // more than there may be of one level
		id := fmt.Sprint("many-", i)
		store(tb, r, id, 20+i)
		forget(world, id)
	}
	// A session refers to a chunk, and then its pack is condemned.
	p := store(tb, r, "rescue-1", 30, 31)
	if _, err := storeWith(tb.Context(), r, "rescued-1", []int{30}, func() {
		forget(world, "rescue-1")
		if err := r.Condemn(tb.Context(), p, false); err != nil {
			tb.Fatal(err)
		}
	}); err != nil {
		tb.Fatal(err)
	}
	want["rescued-1"] = []int{30}
	dead := world.Open(nil)
	if _, err := storeWith(tb.Context(), reopen(tb, dead.Bucket()), "dead-1", []int{40}, dead.Kill); err == nil {
		tb.Fatal("the session survived")
	}
	if _, err := storeWith(tb.Context(), r, "fenced-1", []int{50}, func() { collectNothing(tb, world) }); !errors.Is(err, repo.ErrFenced) {
		tb.Fatal(err)
	}
	dead = world.Open(nil)
	if _, err := storeWith(tb.Context(), reopen(tb, dead.Bucket()), "dead-2", []int{41}, dead.Kill); err == nil {
		tb.Fatal("the session survived")
	}
	store(tb, r, "half-1", 60)
	half := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		return repotest.Fault{Kill: strings.HasPrefix(op.Key, "closed/") && op.Kind == repotest.PutOnce}
	}})
	forget(half, "half-1")
	return world, want
}

// collectNothing gives up all sessions, and then finds too much garbage.
func collectNothing(tb testing.TB, world *repotest.Bucket) {
	tb.Helper()
	o := &repo.CollectOptions{StaleAfter: -1, MaxDelete: 0.01}
	if _, err := reopen(tb, world.Bucket()).Collect(tb.Context(), o); err == nil {
		tb.Fatal("there is no garbage")
	}
}

// TestCollectSweep fails every store call of a collection, in every way. What
// is there is intact at any time, and another collection finishes the job.
func TestCollectSweep(t *testing.T) {
	base, want := busyWorld(t)
	opts := repo.CollectOptions{StaleAfter: -1, MaxDelete: 1, Repack: 1}
	runs, failed := 0, 0
	step := 7
	if *long {
		step = 1
	}
	for _, action := range []repotest.Action{repotest.None, repotest.FailBefore, repotest.FailAfter, repotest.Late} {
		for _, kill := range []bool{false, true} {
			if action == repotest.None && !kill {
				continue
			}
			for i, more := int(action)%step, true; more; i += step {
				synctest.Test(t, func(t *testing.T) {
					world := base.Clone(nil)
					process := world.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Kill: kill})})
					r, err := repo.Open(t.Context(), process.Bucket(), key("secret"), &repo.Options{Attempts: 1 + i%2})
					if err == nil {
						_, err = r.Collect(t.Context(), &opts)
					}
					if more = len(process.Calls()) > i; !more {
						return
					}
					runs++
					if err != nil {
						failed++
					}
					finish(t, fmt.Sprintf("%v at call %d (%v), kill %t", action, i, process.Calls()[i], kill), world, want, opts)
				})
				if t.Failed() {
					return
				}
			}
		}
	}
	t.Logf("%d runs, %d of them failed", runs, failed)
	if failed < runs/4 || runs < 100/step {
		t.Errorf("the sweep did not reach what it should")
	}
}

// finish checks the world, lets late effects land, and collects again.
func finish(t *testing.T, what string, world *repotest.Bucket, want map[string][]int, opts repo.CollectOptions) {
	t.Helper()
	same := func(when string) {
		t.Helper()
		r := reopen(t, world.Bucket())
		points, err := r.Points(t.Context())
		if err != nil {
			t.Fatalf("%s: %s: %v", what, when, err)
		}
		got := map[string]map[string]string{}
		for _, p := range points {
			if want[p.ID] != nil {
				if got[p.ID], err = readAll(t.Context(), r, p); err != nil {
					t.Errorf("%s: %s: %s: %v", what, when, p.ID, err)
				}
			}
		}
		if diff := cmp.Diff(expected(want), got); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", what, when, diff)
		}
	}
	same("at once")
	late := world.Clone(nil)
	settled(t, late, opts) // before what is late lands, and after
	late.Settle()
	settled(t, late, opts)
	world.Settle()
	same("settled")
	settled(t, world, opts)
	same("collected")
	if t.Failed() {
		t.Log(what)
	}
}

func expected(want map[string][]int) map[string]map[string]string {
	out := map[string]map[string]string{}
	for id, streams := range want {
		out[id] = map[string]string{}
		for _, n := range streams {
			out[id][fmt.Sprint(n)] = describe("file", 0o600, "", piece(n))
		}
	}
	return out
}

// TestCollectDamage damages or removes one object at a time. Whatever says what
// is needed stops the collection before it deletes anything.
func TestCollectDamage(t *testing.T) {
	base, _ := busyWorld(t)
	opts := repo.CollectOptions{StaleAfter: -1, MaxDelete: 1, Repack: 1}
	packsOf := func(b *repotest.Bucket) (keys []string) {
		for _, key := range b.Keys() {
			if strings.HasPrefix(key, "pack/") {
				keys = append(keys, key)
			}
		}
		return keys
	}
	refused := map[string]int{}
	for _, key := range base.Keys() {
		kind, _, _ := strings.Cut(key, "/")
		for _, gone := range []bool{false, true} {
			if isHeader(key) || kind == "key" || kind == "epoch" {
				continue
			}
			if gone && kind != "pack" {
				continue // no trace is left of them: that is what Options.Head is for
			}
			world := base.Clone(nil)
			if gone {
				world.Delete(key)
			} else {
				world.Flip(key, 8*50)
			}
			before := packsOf(world)
			_, err := reopen(t, world.Bucket()).Collect(t.Context(), &opts)
			switch {
			case err != nil && !errors.Is(err, repo.ErrCorrupt):
				t.Errorf("%s, gone %t: %v", key, gone, err)
			case err != nil:
				refused[kind]++
				if diff := cmp.Diff(before, packsOf(world)); diff != "" && !slices.Equal(before, slices.DeleteFunc(packsOf(world), func(k string) bool { return !slices.Contains(before, k) })) {
					t.Errorf("%s, gone %t: deleted in spite of %v:\n%s", key, gone, err, diff)
				}
			case kind == "point" || kind == "session" || kind == "closed" || kind == "condemn":
				t.Errorf("%s, gone %t: nothing noticed", key, gone)
			}
		}
	}
	t.Log("refused:", refused)
	if refused["pack"] < 4 || refused["index"] < 2 {
		t.Errorf("refused: %v", refused)
	}
}

// TestCollectKnownDamage goes on where the damage has been acknowledged.
func TestCollectKnownDamage(t *testing.T) {
	world, r := newWorld(t)
	bad := store(t, r, "bad-1", 1, 2)
	store(t, r, "good-1", 2, 3)
	store(t, r, "old-1", 4)
	if err := r.Forget(t.Context(), "old-1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Condemn(t.Context(), bad, true); err != nil {
		t.Fatal(err)
	}
	// The next point stores again what is in the damaged packs.
	p := store(t, r, "again-1", 1, 2)
	if p.Stats.New < 8000 {
		t.Errorf("relied on what is damaged: %+v", p.Stats)
	}
	if rep := collect(t, world, all); rep.Deleted == 0 || rep.Remaining != 0 {
		t.Errorf("%+v", rep)
	}
	intact(t, reopen(t, world.Bucket()), map[string][]int{"bad-1": {1, 2}, "good-1": {2, 3}, "again-1": {1, 2}})
	settled(t, world, all)
}

// TestCollectRescueFails cannot copy a chunk out of a condemned pack: the pack
// stays as long as a point needs it, and the rest goes its way.
func TestCollectRescueFails(t *testing.T) {
	world, r := newWorld(t)
	p := store(t, r, "a-1", 1, 2)
	store(t, r, "z-1", 9)
	if err := errors.Join(r.Forget(t.Context(), "z-1"), r.Condemn(t.Context(), p, false)); err != nil {
		t.Fatal(err)
	}
	bad := ""
	for key, data := range world.Objects() {
		if strings.HasPrefix(key, "pack/") && len(data) > 8000 {
			bad = key
			world.Flip(key, 8*200) // in the first chunk
		}
	}
	for i := range 2 {
		rep := collect(t, world, all)
		damaged := slices.ContainsFunc(rep.Items, func(i repo.CollectItem) bool { return i.Action == "damaged" && i.Object == bad })
		if rep.Remaining != 1 || rep.Idle || !damaged {
			t.Errorf("run %d: %+v", i, rep)
		}
	}
	if packs(world) != 3 || world.Objects()[bad] == nil {
		t.Errorf("packs: %v", world.Keys())
	}
	p, err := reopen(t, world.Bucket()).Point(t.Context(), "a-1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(t.Context(), r, p); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("%v, %v", got, err)
	}
	if err := r.Forget(t.Context(), "a-1"); err != nil {
		t.Fatal(err)
	}
	settled(t, world, all)
	intact(t, reopen(t, world.Bucket()), nil)
}

// TestCollectUnsupported refuses to delete where the store cannot decide who
// was first.
func TestCollectUnsupported(t *testing.T) {
	world := repotest.NewBucket(nil)
	weak := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, "probe/") {
			world.Delete(op.Key) // everybody wins
		}
		return repotest.Fault{}
	}})
	r, err := repo.Init(t.Context(), weak.Bucket(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.AtomicCreate() {
		t.Fatal("the test of Init did not notice")
	}
	if _, err := r.Collect(t.Context(), nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

// TestCollectCancelled ends soon.
func TestCollectCancelled(t *testing.T) {
	world, _ := busyWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.Get && strings.HasPrefix(op.Key, "pack/") {
			cancel()
		}
		return repotest.Fault{}
	}})
	if _, err := reopen(t, process.Bucket()).Collect(ctx, &all); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestCollectSlowly kills a collection that has copied for a while. The next one
// need not copy all of it again.
func TestCollectSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world, r := newWorld(t)
		want := map[string][]int{}
		const n = 12
		for i := range n {
			mostly, some := fmt.Sprint("mostly-", i), fmt.Sprint("some-", i)
			store(t, r, mostly, 10*i, 10*i+1, 10*i+2, 10*i+3)
			want[some] = []int{10 * i}
			store(t, r, some, want[some]...)
			if err := r.Forget(t.Context(), mostly); err != nil {
				t.Fatal(err)
			}
		}
		process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.Get && kindOf(op.Key) == "pack/" && op.Length >= 4000 {
				<-time.After(50 * time.Second)
			}
			return repotest.Fault{}
		}})
		slow := reopen(t, process.Bucket())
		time.AfterFunc(170*time.Second, process.Kill) // of the 200 that it takes
		if rep, err := slow.Collect(t.Context(), &repo.CollectOptions{MaxDelete: 1}); !process.Killed() {
			t.Fatalf("%+v, %v", rep, err)
		}
		rep := collect(t, world, repo.CollectOptions{MaxDelete: 1})
		if rep.Rewritten > n/2*5000 {
			t.Errorf("%d bytes were copied once more", rep.Rewritten)
		}
		intact(t, reopen(t, world.Bucket()), want)
	})
}
