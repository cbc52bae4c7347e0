// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/internal/durable/durabletest"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

var clones = flag.Int("clones", 0, "number of power cuts of TestPower")

// powerCuts looks at what a restart could find after each step on the disk.
type powerCuts struct {
	t   *testing.T
	p   *pantry
	l   *ledger
	c   *durabletest.CrashFS
	rng *rand.Rand
	// most is how many more disks to look at; seen are those that were.
	most, cuts, lives int
	done              atomic.Bool
	seen              map[[32]byte]int
}

// look cuts the power in several ways: nothing that was not flushed survives,
// all of it, and mixtures. Disks that were seen with what is owed are counted
// only.
func (w *powerCuts) look() {
	ways := []func() bool{func() bool { return false }, func() bool { return true }}
	for range 6 {
		ways = append(ways, func() bool { return w.rng.IntN(2) == 0 })
	}
	for _, keep := range ways {
		now, whole := w.l.clock()
		if w.most <= 0 || !whole {
			w.done.Store(true)
			return
		}
		w.most--
		w.cuts++
		files := w.c.Crash(keep)
		h := sha256.New()
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if !strings.HasPrefix(name, ".tmp/") {
				_, _ = fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256([]byte(files[name]))) // cannot fail
			}
		}
		if last, ok := w.seen[[32]byte(h.Sum(nil))]; ok && last == now {
			continue
		}
		w.seen[[32]byte(h.Sum(nil))] = now
		w.restart(files)
	}
}

// restart checks a disk as a new process finds it, and sometimes lives on.
func (w *powerCuts) restart(files map[string]string) {
	world := repotest.NewBucket(nil)
	for name, data := range files {
		if !strings.HasPrefix(name, ".tmp/") {
			world.Set(strings.Replace(name, "+/", "/", 1), []byte(data))
		}
	}
	ctx := w.t.Context()
	now, _ := w.l.clock()
	if len(w.l.owed(now)) == 0 { // perhaps the power went before there was a whole repository
		if _, err := repo.Init(ctx, world.Bucket(), key(), nil); err != nil && !errors.Is(err, fs.ErrExist) {
			w.l.breach("P7: after power cut %d: init again: %v", w.cuts, err)
		}
	}
	r := w.l.judge(ctx, w.p, world, fmt.Sprintf("after power cut %d", w.cuts))
	if _, whole := w.l.clock(); r == nil || !whole || w.rng.IntN(20) > 0 {
		return
	}
	w.lives++
	if _, err := w.p.write(ctx, r, "after the cut", "app", recipe{streams: []int{1, 4}, dir: 2}); err != nil {
		w.l.breach("P7: after power cut %d: write: %v", w.cuts, err)
	}
	if err := tidy(ctx, r, world.Bucket()); err != nil {
		w.l.breach("P7: after power cut %d: %v", w.cuts, err)
	}
	w.l.judge(ctx, w.p, world, fmt.Sprintf("after power cut %d and a collection", w.cuts))
}

// TestPower lets a process work on a disk that keeps only what was flushed, and
// cuts the power after every step on it, several times each:
//
//	go test ./internal/campaign -run 'TestPower$' -timeout 0 -v -args -clones 100000
func TestPower(t *testing.T) {
	p, err := newPantry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seed, left := firstSeed(t), or(*clones, 4000)
	cuts, distinct, lives, runs := 0, 0, 0, 0
	for ; left > 0; runs++ {
		rng := rand.New(rand.NewPCG(seed, uint64(runs)))
		w := &powerCuts{t: t, p: p, l: &ledger{}, c: durabletest.New(), rng: rng, most: min(left, 4000), seen: map[[32]byte]int{}}
		w.c.NoLinks = rng.IntN(3) == 0
		w.work(rng, runs%8 == 7)
		if len(w.l.broken) > 0 {
			t.Fatalf("seed %d, run %d: %s", seed, runs, w.l.report())
		}
		cuts, distinct, lives, left = cuts+w.cuts, distinct+len(w.seen), lives+w.lives, left-max(1, w.cuts)
	}
	t.Logf("%d power cuts from seed %d in %d runs, %d distinct disks, %d of them lived on", cuts, seed, runs, distinct, lives)
}

// work is what the process does until the cuts are used up. Some runs begin
// with the birth of the repository, which takes many steps.
func (w *powerCuts) work(rng *rand.Rand, birth bool) {
	ctx := w.t.Context()
	after := func(op string) {
		// Nobody sees what is in temporary files.
		if what, _, _ := strings.Cut(op, " "); !slices.Contains([]string{"create", "write", "close"}, what) {
			w.look()
		}
	}
	if birth {
		w.c.After = after
	}
	fsys := lockedFS{c: w.c, mu: new(sync.Mutex)}
	if _, err := repo.Init(ctx, blob.NewBucket(newCrashBucket(fsys)), key(), nil); err != nil {
		w.t.Fatal(err)
	}
	w.c.After = after
	var seeds [3]uint64 // drawn before the first of them runs, whose looks draw too
	for i := range seeds {
		seeds[i] = rng.Uint64()
	}
	var wg sync.WaitGroup
	for i, seed := range seeds { // what several have under way is lost in more ways
		rng := rand.New(rand.NewPCG(seed, 0))
		wg.Go(func() { w.process(ctx, i, rng, blob.NewBucket(newCrashBucket(fsys))) })
	}
	wg.Wait()
}

// process is one of those that work on the disk.
func (w *powerCuts) process(ctx context.Context, number int, rng *rand.Rand, b *blob.Bucket) {
	r, err := repo.Open(ctx, b, key(), nil)
	for !w.done.Load() && err == nil {
		e := &event{actor: number, id: fmt.Sprint("p", rng.IntN(5))}
		switch n := rng.IntN(10); {
		case n < 5:
			e.verb, e.recipe = doWrite, randomRecipe(rng).String()
		case n < 7:
			e.verb = doForget
		case n < 8:
			e.verb = doHold
		default:
			e.verb, e.recipe = doCollect, "0 1 0.5" // nobody is given up
		}
		w.l.begin(e)
		e.err = w.p.change(ctx, r, e)
		w.l.end(e)
		if e.verb != doHold && e.verb != doForget && !errors.Is(e.err, repo.ErrFenced) {
			err = e.err
		}
	}
	if err != nil {
		w.l.breach("P12: process %d: %v", number, err)
	}
}
