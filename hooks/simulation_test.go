// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

var (
	schedules   = flag.Int("schedules", 1500, "how many schedules the simulation runs")
	mutantLimit = flag.Int("mutant-schedules", 5000, "how many schedules a bug that is built in may take; deep ones are tried from 200000 on")
	simSeed     = flag.Uint64("sim-seed", 0, "first seed of the simulation; 0 draws one")
)

// start starts a process: its group, and what it reaches.
func (s *sim) start(t *testing.T, name string, safe bool, order [][]int) (*simProcess, *hooks.Group) {
	p := &simProcess{s: s, name: name, safe: safe}
	var qs []*simQuiescer
	for _, target := range s.targets {
		qs = append(qs, s.quiescer(p, target))
	}
	members := make([]hooks.Member, len(qs))
	for i, q := range qs {
		members[i].Name, members[i].Quiescer = q.t.name, q
	}
	for i, below := range order {
		for _, k := range below {
			qs[i].below = append(qs[i].below, qs[k])
			if s.bug == wrongOrder {
				members[k].DependsOn = append(members[k].DependsOn, members[i].Name)
			} else {
				members[i].DependsOn = append(members[i].DependsOn, members[k].Name)
			}
		}
	}
	g, err := hooks.NewGroup("app", members, &hooks.GroupOptions{Journal: &simJournal{p, s.journal, make(map[hooks.Epoch]bool)}})
	if err != nil {
		t.Fatal(err)
	}
	return p, g
}

// numbers returns the freezes in force; 0 is none.
func (s *sim) numbers() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []int
	for _, t := range s.targets {
		n := 0
		if t.frozen {
			n = t.number
		}
		out = append(out, n)
	}
	return out
}

// attempt takes one point and checks what it says of itself.
func (s *sim) attempt(ctx context.Context, p *simProcess, g *hooks.Group, pause func(time.Duration)) bool {
	torn := true
	report, err := g.Do(ctx, p.name, func(ctx context.Context) error {
		before := s.numbers()
		pause(2 * time.Second)
		torn = slices.Contains(before, 0) || !slices.Equal(before, s.numbers())
		return ctx.Err()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	proven := err == nil && report.Proven() && !p.dead
	if proven {
		s.stats.proven++
		if torn {
			s.violate("%s: a point is labelled stronger than it was", p.name)
		}
	}
	s.note("%s point: %t", p.name, proven)
	return proven
}

// live is the life of a coordinator that starts anew when it was killed.
func (s *sim) live(t *testing.T, name string, rng *rand.Rand, tick time.Duration, order [][]int) {
	pause := func(limit time.Duration) {
		time.Sleep(time.Duration(rng.Int64N(int64(limit))).Truncate(time.Microsecond) + tick)
	}
	for life := range 3 {
		pause(5 * time.Second)
		p, g := s.start(t, fmt.Sprintf("%s%d", name, life), false, order)
		killer := time.AfterFunc(time.Duration(rng.Int64N(int64(40*time.Second))).Truncate(time.Microsecond)+tick, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			p.kill()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.Int64N(int64(time.Minute))).Truncate(time.Microsecond)+tick)
		_ = g.Recover(ctx)
		for range 1 + rng.IntN(2) {
			s.attempt(ctx, p, g, pause)
			pause(time.Second)
		}
		cancel()
		killer.Stop()
		s.mu.Lock()
		p.dead = true // it ends
		s.mu.Unlock()
	}
}

func (s *sim) run(t *testing.T) {
	n := 1 + s.rng.IntN(4)
	order := make([][]int, n)
	for i := range n {
		s.targets = append(s.targets, &simTarget{s: s, name: fmt.Sprint("t", i), tick: time.Duration(7001 * (i + 1))})
		for k := i + 1; k < n; k++ {
			if s.rng.IntN(2) == 0 {
				order[i] = append(order[i], k)
			}
		}
	}
	for i, target := range s.targets {
		if s.rng.IntN(4) == 0 {
			time.AfterFunc(time.Duration(s.rng.Int64N(int64(time.Minute))).Truncate(time.Microsecond)+time.Duration(600+i), func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				target.restart()
			})
		}
	}
	// All is drawn before the first of them runs.
	sources := []*rand.Rand{rand.New(rand.NewPCG(s.rng.Uint64(), 0)), rand.New(rand.NewPCG(s.rng.Uint64(), 0))}
	sources = sources[:1+s.rng.IntN(2)]
	var wg sync.WaitGroup
	for i, rng := range sources {
		wg.Go(func() { s.live(t, string(rune('a'+i)), rng, time.Duration(500+i), order) })
	}
	wg.Wait()
	s.aftermath(t, order)
}

// aftermath starts a process that nothing happens to: it thaws at once what
// the others left, and takes a point when all that was late has arrived.
func (s *sim) aftermath(t *testing.T, order [][]int) {
	p, g := s.start(t, "last", true, order)
	began := time.Now()
	// What is frozen without an intent came late to a target that was restarted
	// and knows no epochs any more: it has its lease.
	intended := make(map[hooks.Epoch]bool)
	pending, err := s.journal.Pending(t.Context())
	for _, in := range pending {
		intended[in.Epoch] = true
	}
	if err = errors.Join(err, g.Recover(t.Context())); err != nil {
		s.violate("the last Recover: %v", err)
	}
	s.mu.Lock()
	for _, target := range s.targets {
		if target.frozen && intended[target.epoch] && target.since.Before(began) {
			s.violate("%s is frozen after Recover", target.name)
		}
	}
	s.mu.Unlock()
	time.Sleep(2 * time.Minute)
	if numbers := s.numbers(); slices.Max(numbers) > 0 {
		s.violate("freezes %v are left", numbers)
	}
	if len(s.wrong) == 0 && !s.attempt(t.Context(), p, g, time.Sleep) {
		s.violate("the last point is not proven")
	}
}

// simulate runs one schedule.
func simulate(t *testing.T, seed uint64, b bug) *sim {
	s := &sim{bug: b, rng: rand.New(rand.NewPCG(seed, 0)), journal: hooks.NewMemJournal()}
	synctest.Test(t, s.run)
	return s
}

func (s *sim) hash() uint64 {
	h := fnv.New64a()
	for _, line := range s.trace {
		_, _ = h.Write([]byte(line + "\n"))
	}
	return h.Sum64()
}

func simFirst(t *testing.T) uint64 {
	seed := *simSeed
	if seed == 0 {
		seed = rand.Uint64() >> 16 // easy to type
	}
	t.Logf("-sim-seed %d", seed)
	return seed
}

// TestSimulation runs random schedules. Nobody is frozen beyond the window, no
// point is labelled stronger than it was, the order is kept, and whoever comes
// last finds nothing frozen.
func TestSimulation(t *testing.T) {
	first := simFirst(t)
	var stats simStats
	seen := make(map[uint64]bool)
	for i := range *schedules {
		s := simulate(t, first+uint64(i), noBug)
		if len(s.wrong) > 0 {
			for _, line := range s.trace {
				t.Log(line)
			}
			t.Fatalf("seed %d: %q", first+uint64(i), s.wrong)
		}
		seen[s.hash()] = true
		stats.add(s.stats)
	}
	t.Logf("%d schedules, %d of them distinct: %+v", *schedules, len(seen), stats)
}

// TestSimulationIsDeterministic runs schedules twice.
func TestSimulationIsDeterministic(t *testing.T) {
	first := simFirst(t)
	for i := range uint64(200) {
		if a, b := simulate(t, first+i, noBug), simulate(t, first+i, noBug); a.hash() != b.hash() {
			t.Errorf("seed %d: two traces", first+i)
		}
	}
}

// TestSimulationFindsBugs builds bugs in, one at a time.
func TestSimulationFindsBugs(t *testing.T) {
	first := simFirst(t)
	bugs := []bug{noWatchdog, noEpoch, noProof, noIntent, noBarrier, thawFirst, wrongOrder, longHold, foreignIsOK, staleFreezes}
	if *mutantLimit >= 200_000 {
		bugs = append(bugs, epochProof)
	}
	for _, b := range bugs {
		found := errors.New("not found")
		for i := range uint64(*mutantLimit) {
			if s := simulate(t, first+i, b); len(s.wrong) > 0 {
				t.Logf("%s: schedule %d: %s", b, i, s.wrong[0])
				found = nil
				break
			}
		}
		if found != nil {
			t.Errorf("%s: %v", b, found)
		}
	}
}
