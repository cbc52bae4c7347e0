// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// history is what processes did to one repository, all of them at once, with
// faults, deaths and effects that come late.
type history struct {
	t     *testing.T
	world *repotest.Bucket
	dirs  []string // versions of a volume of files
	want  []map[string]string

	mu     sync.Mutex
	rnd    *rand.Rand
	next   int
	tried  map[string]pointContent // what was ever written under an id
	acked  map[string]bool         // told that it is there, and not told to forget it
	gone   map[string]bool         // told that it is forgotten
	busy   map[string]int          // being written
	counts map[string]int
}

// pointContent is what a point holds.
type pointContent struct {
	dir     int
	streams []int
}

func (h *history) expect(c pointContent) map[string]string {
	out := maps.Clone(h.want[c.dir])
	for _, n := range c.streams {
		out[fmt.Sprint(n)] = describe("file", 0o600, "", piece(n))
	}
	return out
}

// intn is safe for concurrent use; which actor gets which number depends on the
// schedule, but not what is checked.
func (h *history) intn(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rnd.IntN(n)
}

// process returns a repository as a new process sees it. One call of it in rate
// fails somehow.
func (h *history) process(rate int) (*repo.Repository, error) {
	p := h.world.Open(&repotest.Options{PageSize: 2, Fault: func(repotest.Op) repotest.Fault {
		if h.intn(rate) > 0 {
			return repotest.Fault{}
		}
		actions := []repotest.Action{repotest.None, repotest.FailBefore, repotest.FailAfter, repotest.Late}
		return repotest.Fault{Action: actions[h.intn(len(actions))], Kill: h.intn(4) == 0}
	}})
	return repo.Open(h.t.Context(), p.Bucket(), key("secret"), &repo.Options{Attempts: 1 + h.intn(3)})
}

func (h *history) count(what string, err error) {
	if err != nil {
		what += " failed"
	}
	h.mu.Lock()
	h.counts[what]++
	h.mu.Unlock()
}

func (h *history) write(rate int) {
	h.mu.Lock()
	var c pointContent
	var id string
	ids := slices.Sorted(maps.Keys(h.tried))
	if len(ids) > 0 && h.rnd.IntN(4) == 0 { // again
		id = ids[h.rnd.IntN(len(ids))]
		c = h.tried[id]
	} else {
		id = fmt.Sprintf("%c-%d", 'a'+rune(h.next%2), h.next)
		h.next++
		c.dir = h.rnd.IntN(len(h.dirs))
		for n := range 8 {
			if h.rnd.IntN(3) == 0 {
				c.streams = append(c.streams, n)
			}
		}
		h.tried[id] = c
	}
	h.busy[id]++
	h.mu.Unlock()
	r, err := h.process(rate)
	if err == nil {
		_, err = r.Write(h.t.Context(), repo.WriteOptions{ID: id, Name: id[:1]}, func(ctx context.Context, w *repo.Writer) error {
			if err := w.Put(ctx, "v", h.dirs[c.dir]); err != nil {
				return err
			}
			for _, n := range c.streams {
				if err := w.PutStream(ctx, fmt.Sprint(n), bytes.NewReader(piece(n))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	h.count("write", err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy[id]--
	if err == nil {
		h.acked[id] = true
	}
}

func (h *history) forget(rate int) {
	h.mu.Lock()
	var id string
	ids := slices.DeleteFunc(slices.Sorted(maps.Keys(h.acked)), func(id string) bool { return h.busy[id] > 0 })
	if len(ids) > 0 {
		id = ids[h.rnd.IntN(len(ids))]
		delete(h.acked, id)
		delete(h.tried, id) // nobody writes it again
	}
	h.mu.Unlock()
	if id == "" {
		return
	}
	r, err := h.process(rate)
	if err == nil {
		err = r.Forget(h.t.Context(), id)
	}
	h.count("forget", err)
	if err == nil {
		h.mu.Lock()
		h.gone[id] = true
		h.mu.Unlock()
	}
}

func (h *history) collect(rate int) {
	o := repo.CollectOptions{MaxDelete: 1, Repack: 1}
	if h.intn(2) == 0 {
		o.StaleAfter = -1
	}
	r, err := h.process(rate)
	var rep *repo.CollectReport
	if err == nil {
		rep, err = r.Collect(h.t.Context(), &o)
	}
	h.count("collect", err)
	if errors.Is(err, repo.ErrCorrupt) {
		h.t.Errorf("a false alarm: %v", err)
	}
	if rep != nil {
		h.mu.Lock()
		h.counts["deleted"] += rep.Deleted
		h.counts["rewritten"] += int(rep.Rewritten)
		h.counts["fenced"] += rep.Fenced
		h.mu.Unlock()
	}
}

// read restores a point while others are at work.
func (h *history) read() {
	r := reopen(h.t, h.world.Bucket())
	points, err := r.Points(h.t.Context())
	if err != nil {
		h.t.Error(err)
	}
	for _, p := range points {
		got, err := readAll(h.t.Context(), r, p)
		h.mu.Lock()
		kept := h.acked[p.ID] // and not forgotten meanwhile
		c := h.tried[p.ID]
		h.mu.Unlock()
		if !kept {
			continue
		}
		h.count("read", err)
		if diff := cmp.Diff(h.expect(c), got); err != nil || diff != "" {
			h.t.Errorf("%s, read while others work: %v (-want +got):\n%s", p.ID, err, diff)
		}
	}
}

// check reads all that must be there, and all that is.
func (h *history) check(what string) {
	h.t.Helper()
	r := reopen(h.t, h.world.Bucket())
	points, err := r.Points(h.t.Context())
	if err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
	there := map[string]bool{}
	for _, p := range points {
		there[p.ID] = true
		got, err := readAll(h.t.Context(), r, p)
		if err != nil {
			h.t.Errorf("%s: %s: %v", what, p.ID, err)
		}
		if c, ok := h.tried[p.ID]; ok {
			if diff := cmp.Diff(h.expect(c), got); diff != "" {
				h.t.Errorf("%s: %s (-want +got):\n%s", what, p.ID, diff)
			}
		}
	}
	for id := range h.acked {
		if !there[id] {
			h.t.Errorf("%s: %s was acknowledged and is gone", what, id)
		}
	}
	for id := range h.gone {
		if there[id] {
			h.t.Errorf("%s: %s was forgotten and is back", what, id)
		}
	}
}

// TestCollectRandom runs random histories.
func TestCollectRandom(t *testing.T) {
	seeds := 40
	if *long {
		seeds = 3000
	}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var want []map[string]string
	for v, dir := range dirs {
		for i := range 8 {
			put(t, dir, filepath.Join("d", fmt.Sprint(i)), random(uint64(i), 1500))
		}
		put(t, dir, filepath.Join("d", fmt.Sprint(v)), random(uint64(100+v), 1500))
		want = append(want, onDisk(t, dir))
	}
	total := map[string]int{}
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			world, _ := newWorld(t)
			h := &history{
				t: t, world: world, dirs: dirs, want: want, rnd: rand.New(rand.NewPCG(seed, 2)),
				tried: map[string]pointContent{}, acked: map[string]bool{}, gone: map[string]bool{}, busy: map[string]int{}, counts: total,
			}
			for round := range 8 {
				var wg sync.WaitGroup
				rate := 30 + 200*h.intn(2)
				for range 2 {
					wg.Go(func() { h.write(rate) })
					wg.Go(func() { h.collect(rate) })
				}
				wg.Go(func() { h.forget(rate) })
				wg.Go(h.read)
				wg.Wait()
				if h.intn(3) == 0 {
					world.Settle()
				}
				h.check(fmt.Sprintf("seed %d, round %d", seed, round))
			}
			world.Settle()
			settled(t, world, all)
			h.check(fmt.Sprintf("seed %d, in the end", seed))
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log(total)
	for _, what := range []string{"write", "write failed", "forget", "collect", "collect failed", "read", "deleted", "rewritten", "fenced"} {
		if total[what] == 0 {
			t.Errorf("the histories have no %q: %v", what, total)
		}
	}
}
