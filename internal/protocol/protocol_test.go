// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"flag"
	"strings"
	"testing"
	"time"
)

var (
	schedules = flag.Int("schedules", 10000, "number of schedules")
	firstSeed = flag.Uint64("seed", 1, "seed of the first schedule")
	survey    = flag.Int("survey", 0, "run each mutant for that many schedules, and report")
)

// replay runs a seed again and returns what happened.
func replay(seed uint64, m ...mutation) string {
	s := newSim(seed, m...)
	s.trace = &strings.Builder{}
	s.run()
	return s.trace.String()
}

// TestSchedules runs the protocol as it is.
func TestSchedules(t *testing.T) {
	began := time.Now()
	var sum stats
	seen := make(map[uint64]struct{}, *schedules)
	for i := range *schedules {
		seed := *firstSeed + uint64(i)
		s := newSim(seed)
		s.run()
		sum.add(&s.stats)
		seen[s.hash] = struct{}{}
		if s.o.violation != "" {
			t.Fatalf("seed %d (schedule %d): %s\n%s", seed, i+1, s.o.violation, replay(seed))
		}
	}
	rate := float64(*schedules) / time.Since(began).Seconds()
	t.Logf("%d schedules from seed %d, %d of them distinct, %.0f a second: %+v", *schedules, *firstSeed, len(seen), rate, sum)
	for what, n := range map[string]int{
		"crashes": sum.crashes, "faults": sum.faults, "late calls": sum.lates, "repeated calls": sum.dups,
		"fences": sum.fences, "rescues": sum.rescues, "deleted packs": sum.packDeletes, "forgotten points": sum.forgets,
		"holds": sum.holds, "merges": sum.merges, "restarts of a mark": sum.restarts,
	} {
		if n == 0 {
			t.Errorf("no %s: the schedules do not test what they are for", what)
		}
	}
}

// TestDeterminism: a seed is a schedule.
func TestDeterminism(t *testing.T) {
	for seed := uint64(1); seed <= 500; seed++ {
		a, b := newSim(seed), newSim(seed)
		a.run()
		b.run()
		if a.hash != b.hash || a.stats != b.stats {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
}

// TestMutants takes each rule away. Whatever then goes wrong must be seen, within
// a number of schedules or in the script that was written for it.
func TestMutants(t *testing.T) {
	scripted := map[mutation]bool{}
	for _, sc := range scenarios() {
		for _, m := range sc.catches {
			scripted[m] = true
		}
	}
	for m := none + 1; m < mutationCount; m++ {
		how := verdicts[m]
		t.Run(how.name, func(t *testing.T) {
			if how.name == "" {
				t.Fatalf("mutant %d has no verdict", m)
			}
			if how.within == 0 {
				if scripted[m] == (how.harmless != "") {
					t.Fatalf("scripted: %v; harmless because %q", scripted[m], how.harmless)
				}
				return
			}
			for seed := uint64(1); seed <= uint64(how.within); seed++ {
				s := newSim(seed, m)
				if s.run(); s.o.violation != "" {
					t.Logf("seed %d: %s", seed, s.o.violation)
					return
				}
			}
			t.Errorf("survives %d schedules", how.within)
		})
	}
}

// TestScripts plays each scenario with the protocol, which stands it and comes to
// rest after it, and with the mutants that it is for.
func TestScripts(t *testing.T) {
	for _, x := range scenarios() {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			for _, m := range [][]mutation{nil, x.with} {
				sc := newScript(t, m...)
				x.play(sc)
				if sc.settle(); sc.o.violation != "" {
					t.Errorf("with %v: %s\n%s", m, sc.o.violation, sc.trace)
				}
			}
			for _, m := range x.catches {
				sc := newScript(t, append([]mutation{m}, x.with...)...)
				if x.play(sc); sc.o.violation == "" {
					t.Errorf("%s survives\n%s", verdicts[m].name, sc.trace)
				}
			}
		})
	}
}

// TestSurvey counts how often volume finds each mutant. It asserts nothing, and
// is what the bounds in verdicts come from.
func TestSurvey(t *testing.T) {
	if *survey == 0 {
		t.Skip("run with -args -survey 20000")
	}
	for m := none + 1; m < mutationCount; m++ {
		t.Run(verdicts[m].name, func(t *testing.T) {
			n, bad, first := 0, 0, 0
			for ; n < *survey && bad < 20; n++ {
				s := newSim(*firstSeed+uint64(n), m)
				if s.run(); s.o.violation != "" {
					if bad++; first == 0 {
						first = n + 1
					}
				}
			}
			t.Logf("%d in %d, first %d", bad, n, first)
		})
	}
}
