// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// bug is a fault that is built into the world, to show that it is noticed.
type bug string

const (
	noBug        bug = ""
	noWatchdog   bug = "no watchdog"            // targets do not thaw by themselves
	noEpoch      bug = "no epoch"               // targets obey whoever comes
	noProof      bug = "no proof"               // every hold says that it held
	epochProof   bug = "proof by epoch"         // which a restart and a late duplicate can bring back
	noIntent     bug = "no intent"              // the journal dies with its process
	lateIntent   bug = "intent after freeze"    // the journal answers before the intent is there
	earlyEnd     bug = "intent ended early"     // it ends when the proof is asked for
	noBarrier    bug = "no barrier"             // the cut does not wait for all members
	thawFirst    bug = "thaw before the cut"    // and the targets do not mind
	wrongOrder   bug = "wrong order"            // dependencies are the wrong way round
	longHold     bug = "hold beyond the window" // each freeze gets more than is left of it
	wholeWindow  bug = "a window for each"      // it counts from the freeze of each member
	overrunIsOK  bug = "overrun is proven"      // the level is not lowered
	foreignIsOK  bug = "foreign freeze is ours" // a freeze of somebody else counts as success
	foreignThaw  bug = "foreign freeze thawed"  // and is ended
	comesBack    bug = "refused freeze is back" // when a duplicate arrives after the stranger has gone
	staleFreezes bug = "stale freezes"          // only freezes are not checked for their epoch
	badClocks    bug = "clocks are trusted"     // past freezes of the future count
)

// sim is one schedule: two coordinators of one application, what it freezes,
// and everything that can go wrong. It is deterministic: each actor has a
// random source and instants of its own.
type sim struct {
	bug     bug
	rng     *rand.Rand // of the one who makes the schedule
	targets []*simTarget
	order   [][]int // by target: what it depends on
	opts    hooks.GroupOptions
	calm    int // how many requests there are for each fault of a kind
	journal *hooks.MemJournal
	hidden  map[hooks.Epoch]bool // intents that are not there yet

	mu     sync.Mutex
	actors int
	begun  int // calls
	active int // calls that are under way
	trace  []string
	wrong  []string
	stats  simStats
}

// simStats counts what happened.
type simStats map[string]int

func (a simStats) add(b simStats) {
	for what, n := range b {
		a[what] += n
	}
}

// violate notes a broken promise. s.mu is held.
func (s *sim) violate(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// note adds to the trace. s.mu is held.
func (s *sim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// random is a time of less than limit, in whole microseconds: what is below
// tells the actors apart.
func random(rng *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(limit))).Truncate(time.Microsecond)
}

// later does something at a time, with s.mu held.
func (s *sim) later(d time.Duration, do func()) {
	time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		do()
	})
}

// under counts a call that begins or, with -1, ends.
func (s *sim) under(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active += n
	s.begun++
}

// settle waits for the calls that nobody waits for, also those of the dead, and
// for what they lead to.
func (s *sim) settle() {
	for begun := -1; ; time.Sleep(time.Minute) { // longer than a Group tries
		s.mu.Lock()
		quiet := s.active == 0 && s.begun == begun
		begun = s.begun
		s.mu.Unlock()
		if quiet {
			return
		}
	}
}

// simTarget obeys requests, whoever they come from and however late. Its fields
// belong to sim.mu.
type simTarget struct {
	s        *sim
	name     string
	frozen   bool
	foreign  bool // by a stranger
	epoch    hooks.Epoch
	number   int // of the freeze
	since    time.Time
	minEpoch hooks.Epoch
	restarts int
	lease    *time.Timer
	tick     time.Duration
}

func (t *simTarget) freeze(epoch hooks.Epoch, window time.Duration) (int, error) {
	if epoch < t.minEpoch {
		if t.s.bug != noEpoch && t.s.bug != staleFreezes {
			return 0, hookstest.ErrStale
		}
		t.s.violate("%s froze under epoch %d, after %d was over", t.name, epoch, t.minEpoch-1)
	}
	switch {
	case t.frozen && (t.epoch == epoch || t.s.bug == foreignIsOK):
		return t.number, nil // the same again does not extend it
	case t.frozen:
		if t.s.bug != comesBack {
			t.minEpoch = max(t.minEpoch, epoch+1)
		}
		return 0, hooks.ErrForeignFreeze
	}
	t.frozen, t.epoch, t.since = true, epoch, time.Now()
	t.number++
	t.s.stats["freezes"]++
	switch t.s.bug {
	case noWatchdog:
		return t.number, nil
	case longHold:
		window *= 2
	default:
	}
	number := t.number
	// A little less, so that it shares its instant with nobody.
	t.lease = time.AfterFunc(window-t.tick, func() {
		t.s.mu.Lock()
		defer t.s.mu.Unlock()
		if t.frozen && t.number == number {
			t.release("lease")
		}
	})
	return t.number, nil
}

func (t *simTarget) release(why string) {
	if d := time.Since(t.since); d > hooks.DefaultWindow && !t.foreign {
		t.s.violate("%s was frozen for %v", t.name, d)
	}
	t.s.note("%s is thawed by %s", t.name, why)
	t.frozen, t.foreign = false, false
	if t.lease != nil {
		t.lease.Stop()
	}
}

// thaw ends a freeze of this epoch or before, and says whether there was one.
func (t *simTarget) thaw(epoch hooks.Epoch) bool {
	t.minEpoch = max(t.minEpoch, epoch+1)
	switch {
	case !t.frozen, t.epoch > epoch && t.s.bug != noEpoch:
		return false
	case t.foreign && t.s.bug != foreignThaw:
		return false
	case t.foreign:
		t.s.violate("%s: the freeze of a stranger was thawed", t.name)
	case t.epoch > epoch:
		t.s.violate("%s: the freeze of epoch %d was thawed by epoch %d", t.name, t.epoch, epoch)
	}
	t.release(fmt.Sprint("epoch ", epoch))
	return true
}

// restart loses the freeze and, as a process does, the memory of epochs.
func (t *simTarget) restart() {
	t.s.stats["restarts"]++
	t.restarts++
	if t.frozen {
		t.release("restart")
	}
	t.minEpoch = 0
}

// stranger freezes for a while, or thaws, or both.
func (t *simTarget) stranger(freeze, thaw bool, until time.Duration) {
	if thaw && t.frozen {
		t.s.stats["foreign thaws"]++
		t.release("a stranger")
	}
	if !freeze || t.frozen {
		return
	}
	t.s.stats["foreign freezes"]++
	t.frozen, t.foreign, t.epoch = true, true, 0
	t.number++
	number := t.number
	t.s.note("%s is frozen by a stranger", t.name)
	t.s.later(until, func() {
		if t.frozen && t.number == number {
			t.release("the stranger")
		}
	})
}

// misfortunes draws what happens to the targets whoever freezes them.
func (s *sim) misfortunes() {
	for i, t := range s.targets {
		tick := time.Duration(600 + 10*i)
		if s.rng.IntN(4) == 0 {
			s.later(random(s.rng, time.Minute)+tick, t.restart)
		}
		if s.rng.IntN(4) == 0 {
			what, d := s.rng.IntN(3), random(s.rng, 20*time.Second)+tick+1
			s.later(random(s.rng, 2*time.Minute)+tick+2, func() { t.stranger(what != 0, what != 1, d) })
		}
	}
}
