// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
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
	replays     = flag.Int("replays", 200, "how many schedules are run twice")
	simHashes   = flag.String("sim-hashes", "", "file to which the hashes of the schedules are appended, in hex, to count those of several runs")
	simSeed     = flag.Uint64("sim-seed", 0, "first seed of the simulation; 0 draws one")
)

// start starts a process: its group, and what it reaches.
func (s *sim) start(t *testing.T, name string, safe bool) (*simProcess, *hooks.Group) {
	p := &simProcess{s: s, name: name, safe: safe}
	var qs []*simQuiescer
	for _, target := range s.targets {
		qs = append(qs, s.quiescer(p, target))
	}
	members := make([]hooks.Member, len(qs))
	for i, q := range qs {
		members[i].Name, members[i].Quiescer = q.t.name, q
	}
	for i, below := range s.order {
		for _, k := range below {
			qs[i].below = append(qs[i].below, qs[k])
			if s.bug == wrongOrder {
				members[k].DependsOn = append(members[k].DependsOn, members[i].Name)
			} else {
				members[i].DependsOn = append(members[i].DependsOn, members[k].Name)
			}
		}
	}
	opts := s.opts
	opts.Journal = &simJournal{simWay: s.way(p), own: make(map[hooks.Epoch]bool)}
	g, err := hooks.NewGroup("app", members, &opts)
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
		if t.frozen && !t.foreign {
			n = t.number
		}
		out = append(out, n)
	}
	return out
}

// attempt takes one point and checks what it says of itself. The cut takes its
// time, whatever its context says.
func (s *sim) attempt(ctx context.Context, p *simProcess, g *hooks.Group, cut time.Duration) error {
	torn := true
	report, err := g.Do(ctx, p.name, func(context.Context) error {
		before := s.numbers()
		time.Sleep(cut)
		torn = slices.Contains(before, 0) || !slices.Equal(before, s.numbers())
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := errors.AsType[*hooks.TooSoonError](err); ok {
		s.stats["refusals"]++
	}
	if err == nil && report.Overrun() {
		s.stats["overruns"]++
	}
	proven := err == nil && !p.dead && (report.Proven() || s.bug == overrunIsOK && !slices.ContainsFunc(report.Members, func(m hooks.MemberReport) bool { return !m.Proven }))
	if proven {
		s.stats["proven"]++
		if torn {
			s.violate("%s: a point is labelled stronger than it was", p.name)
		}
		if d := p.last.Sub(p.first); d > hooks.DefaultWindow {
			s.violate("%s: a point is called proven after a freeze of %v", p.name, d)
		}
	}
	s.note("%s point: %t", p.name, proven)
	if err == nil && !proven {
		err = errors.New("not proven")
	}
	return err
}

// live is the life of a coordinator that starts anew when it was killed.
func (s *sim) live(t *testing.T, name string, rng *rand.Rand, tick time.Duration) {
	for life := range 3 {
		time.Sleep(random(rng, 5*time.Second) + tick)
		p, g := s.start(t, fmt.Sprintf("%s%d", name, life), false)
		killer := time.AfterFunc(random(rng, 40*time.Second)+tick+50, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			p.kill()
		})
		ctx, cancel := context.WithTimeout(t.Context(), random(rng, time.Minute)+tick)
		_ = g.Recover(ctx)
		for range 1 + rng.IntN(2) {
			limit := 2 * time.Second
			if rng.IntN(8) == 0 {
				limit = 11 * time.Second
			}
			_ = s.attempt(ctx, p, g, random(rng, limit)+tick)
			time.Sleep(random(rng, time.Second) + tick)
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
	s.order = make([][]int, n)
	for i := range n {
		s.targets = append(s.targets, &simTarget{s: s, name: fmt.Sprint("t", i), tick: time.Duration(7001 * (i + 1))})
		for k := i + 1; k < n; k++ {
			if s.rng.IntN(2) == 0 {
				s.order[i] = append(s.order[i], k)
			}
		}
	}
	if s.rng.IntN(4) == 0 {
		s.opts.MinGap = random(s.rng, 20*time.Second)
		s.opts.Budget = time.Duration(2+s.rng.IntN(4)) * hooks.DefaultWindow
	}
	s.calm = []int{20, 40, 80, 160}[s.rng.IntN(4)]
	s.misfortunes()
	// All is drawn before the first of them runs.
	sources := []*rand.Rand{rand.New(rand.NewPCG(s.rng.Uint64(), 0)), rand.New(rand.NewPCG(s.rng.Uint64(), 0))}
	sources = sources[:1+s.rng.IntN(2)]
	var wg sync.WaitGroup
	for i, rng := range sources {
		wg.Go(func() { s.live(t, string(rune('a'+i)), rng, time.Duration(500+i)) })
	}
	wg.Wait()
	s.aftermath(t)
	s.settle()
}

// aftermath starts a process that nothing happens to: it thaws at once what
// the others left, and takes a point when all that was late has arrived.
func (s *sim) aftermath(t *testing.T) {
	p, g := s.start(t, "last", true)
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
	time.Sleep(3 * time.Minute)
	if numbers := s.numbers(); slices.Max(numbers) > 0 {
		s.violate("freezes %v are left", numbers)
	}
	if len(s.wrong) == 0 {
		s.lastPoint(t, p, g)
	}
}

// lastPoint takes a point as soon as the limits allow it, which is in a while
// whatever the clocks of the others were.
func (s *sim) lastPoint(t *testing.T, p *simProcess, g *hooks.Group) {
	const period, future = time.Hour, time.Minute // of the budget; of what may be a clock that is ahead
	began := time.Now()
	for {
		err := s.attempt(t.Context(), p, g, time.Second)
		if err == nil {
			return
		}
		refusal, ok := errors.AsType[*hooks.TooSoonError](err)
		if !ok {
			s.violate("the last point: %v", err)
			return
		}
		if d := time.Until(refusal.Again); d > period+future || time.Since(began) > 6*time.Hour {
			s.violate("the last point is refused for another %v: %v", d, refusal)
			return
		}
		time.Sleep(time.Until(refusal.Again))
	}
}

// simulate runs one schedule.
func simulate(t *testing.T, seed uint64, b bug) *sim {
	s := &sim{
		bug: b, rng: rand.New(rand.NewPCG(seed, 0)), journal: hooks.NewMemJournal(),
		hidden: make(map[hooks.Epoch]bool), stats: make(simStats),
	}
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
	stats := make(simStats)
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
	t.Logf("%d schedules, %d of them distinct: %v", *schedules, len(seen), stats)
	if *simHashes == "" {
		return
	}
	f, err := os.OpenFile(*simHashes, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for h := range seen {
		_, _ = fmt.Fprintf(w, "%016x\n", h)
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestSimulationIsDeterministic runs schedules twice.
func TestSimulationIsDeterministic(t *testing.T) {
	first := simFirst(t)
	for i := range uint64(*replays) {
		if a, b := simulate(t, first+i, noBug), simulate(t, first+i, noBug); a.hash() != b.hash() {
			t.Errorf("seed %d: two traces", first+i)
		}
	}
}

// TestSimulationFindsBugs builds bugs in, one at a time.
func TestSimulationFindsBugs(t *testing.T) {
	first := simFirst(t)
	bugs := []bug{
		noWatchdog, noEpoch, noProof, noIntent, lateIntent, earlyEnd, noBarrier, thawFirst, wrongOrder, longHold, wholeWindow,
		overrunIsOK, foreignIsOK, foreignThaw, staleFreezes, badClocks,
	}
	if *mutantLimit >= 200_000 {
		bugs = append(bugs, epochProof, comesBack)
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
