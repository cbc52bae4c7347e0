// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"flag"
	"strings"
	"testing"
	"time"
)

var (
	schedules = flag.Int("schedules", 40000, "number of schedules")
	firstSeed = flag.Uint64("seed", 1, "seed of the first schedule")
	mutantArg = flag.Int("mutant", 0, "number of a mutant to look for, by volume")
)

// replay runs a seed again and returns what happened.
func replay(seed uint64, m mutation) string {
	s := newSim(seed, m)
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
		s := newSim(seed, mutation(*mutantArg))
		s.run()
		sum.add(&s.stats)
		seen[s.hash] = struct{}{}
		if s.o.violation != "" {
			t.Fatalf("seed %d (schedule %d): %s\n%s", seed, i+1, s.o.violation, replay(seed, mutation(*mutantArg)))
		}
	}
	d := time.Since(began)
	t.Logf("seeds %d+%d: %d distinct, %.0f a second: %+v", *firstSeed, *schedules, len(seen), float64(*schedules)/d.Seconds(), sum)
}

// TestDeterminism: a seed is a schedule.
func TestDeterminism(t *testing.T) {
	for seed := uint64(1); seed <= 1000; seed++ {
		a, b := newSim(seed, none), newSim(seed, none)
		a.run()
		b.run()
		if a.hash != b.hash {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
}
