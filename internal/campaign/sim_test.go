// SPDX-License-Identifier: Apache-2.0

//go:debug randseednop=0

package campaign_test

import (
	"context"
	"flag"
	oldrand "math/rand"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

var (
	schedules = flag.Int("schedules", 0, "number of schedules of TestSim")
	tracing   = flag.Bool("trace", false, "print what happened in each schedule of TestSim")
)

// simulation is what all schedules start from.
type simulation struct {
	p    *pantry
	base *repotest.Bucket // an empty repository
}

func newSimulation(t *testing.T) *simulation {
	t.Helper()
	p, err := newPantry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &simulation{p: p, base: repotest.NewBucket(nil)}
	synctest.Test(t, func(t *testing.T) { // for the times of its objects
		cryptotest.SetGlobalRandom(t, 1)
		world := s.base.Open(nil)
		if _, err := repo.Init(t.Context(), world.Bucket(), key(), nil); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

// alone lets one goroutine run at a time, so that a seed says all.
func alone(t *testing.T) {
	t.Helper()
	procs, gc := runtime.GOMAXPROCS(1), debug.SetGCPercent(400)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs); debug.SetGCPercent(gc) })
}

// result is what came of a schedule.
type result struct {
	l    *ledger
	s    *scheduler
	hang bool
}

// run runs the schedule of the seed.
func (sim *simulation) run(t *testing.T, seed uint64, keep bool) result {
	t.Helper()
	var res result
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		oldrand.Seed(int64(seed)) //nolint:staticcheck // pauses between retries are drawn there, for which there is no other seed
		rng := rand.New(rand.NewPCG(seed, 1))
		world := sim.base.Clone(nil)
		cast := drawCast(rng)
		res.l = &ledger{}
		res.s = newScheduler(rng, drawMix(rng), world, len(cast))
		res.s.trace.keep = keep
		for i, plan := range cast {
			a := &actor{number: i, l: res.l, p: sim.p, s: res.s, plan: plan, attempts: 1 + rng.IntN(3), page: []int{2, 1000}[rng.IntN(2)]}
			for range 3 {
				a.revive = append(a.revive, rng.IntN(3) > 0)
			}
			go a.run(t.Context())
		}
		if res.hang = !res.s.run(); res.hang {
			res.l.breach("P5: a process hangs")
			return
		}
		sim.end(t.Context(), res.l, rng, world)
	})
	return res
}

// end lets the dust settle and checks everything.
func (sim *simulation) end(ctx context.Context, l *ledger, rng *rand.Rand, world *repotest.Bucket) {
	l.truthful()
	l.judge(ctx, sim.p, world, "at the end")
	if world.Pending() > 0 {
		for world.Pending() > 0 {
			world.SettleAt(rng.IntN(world.Pending()))
		}
		l.judge(ctx, sim.p, world, "when all late effects have landed")
	}
	if len(l.broken) > 0 {
		return
	}
	r, err := repo.Open(ctx, world.Bucket(), key(), nil)
	if err != nil {
		l.breach("P7: %v", err)
		return
	}
	if err := tidy(ctx, r, world.Bucket()); err != nil {
		l.breach("P7: %v", err)
		return
	}
	r = l.judge(ctx, sim.p, world, "after collecting")
	if err := sim.again(ctx, l, r); err != nil {
		l.breach("P7: write again: %v", err)
	}
	if rng.IntN(4) > 0 || len(l.broken) > 0 {
		return
	}
	l.judge(ctx, sim.p, world, "after writing again")
	if err := raze(ctx, r, world.Bucket()); err != nil {
		l.breach("P7: %v", err)
	}
}

// again writes every point that somebody tried to write.
func (sim *simulation) again(ctx context.Context, l *ledger, r *repo.Repository) error {
	done := map[string]bool{}
	for _, old := range slices.Clone(l.events) {
		if old.verb != doWrite || done[old.id] {
			continue
		}
		done[old.id] = true
		e := event{verb: doWrite, actor: -1, id: old.id, recipe: old.recipe}
		l.begin(&e)
		e.err = sim.p.change(ctx, r, &e)
		l.end(&e)
		if e.err != nil {
			return e.err
		}
	}
	return nil
}

// TestSim runs schedules of several processes on one repository. By default it
// runs a few, and with flags any number of them, from any seed:
//
//	go test ./internal/campaign -run 'TestSim$' -timeout 0 -v -args -schedules 200000 -seed 1
func TestSim(t *testing.T) {
	alone(t)
	sim := newSimulation(t)
	n, seed := or(*schedules, 400), firstSeed(t)
	distinct := map[uint64]struct{}{}
	var steps, faults, kills, lates, points, acks, bad int
	begin := time.Now()
	for i := range n {
		res := sim.run(t, seed+uint64(i), *tracing)
		if *tracing {
			t.Logf("seed %d:\n%s\n%s", seed+uint64(i), strings.Join(res.s.trace.lines, "\n"), res.l.report())
		}
		distinct[res.s.trace.sum] = struct{}{}
		steps, faults, kills, lates = steps+res.s.steps, faults+res.s.faults, kills+res.s.kills, lates+res.s.lates
		points += res.l.verified
		for _, e := range res.l.events {
			if e.verb == doWrite && e.err == nil {
				acks++
			}
		}
		if len(res.l.broken) > 0 {
			t.Errorf("seed %d: %s", seed+uint64(i), res.l.report())
			if bad++; bad == 10 {
				break
			}
		}
		if res.hang {
			break
		}
	}
	t.Logf("%d schedules from seed %d, %d distinct, %d calls, %d faults, %d kills, %d late effects, %d points acknowledged, %d restored, %v",
		n, seed, len(distinct), steps, faults, kills, lates, acks, points, time.Since(begin).Round(time.Millisecond))
}

// TestSimReplay checks that a seed says all: each schedule runs twice.
func TestSimReplay(t *testing.T) {
	alone(t)
	sim := newSimulation(t)
	seed := firstSeed(t)
	differ := 0
	n := 50
	if *long {
		n = 1000
	}
	for i := range n {
		a, b := sim.run(t, seed+uint64(i), true).s.trace, sim.run(t, seed+uint64(i), true).s.trace
		if a.sum == b.sum {
			continue
		}
		differ++
		k := 0
		for k < min(len(a.lines), len(b.lines)) && a.lines[k] == b.lines[k] {
			k++
		}
		t.Logf("seed %d differs after %q: %q, then %q", seed+uint64(i), a.lines[max(0, k-2):k], a.lines[k:min(k+2, len(a.lines))], b.lines[k:min(k+2, len(b.lines))])
	}
	t.Logf("%d of %d schedules differ when they run again", differ, n)
	if differ > n/20 {
		t.Error("a seed does not say what happens")
	}
}
