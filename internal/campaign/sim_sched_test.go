// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/repo/repotest"
)

// A scheduler holds every call of every process back until all of them wait for
// an answer, and then lets one go on. It is the only source of order: given the
// same seed, the processes do the same.

// call is a store call that waits for its turn.
type call struct {
	actor  int
	b      *repotest.Bucket // the process that makes it
	op     repotest.Op
	key    string // without random parts
	answer chan repotest.Fault
}

// order is the place of a call among those that arrived while nobody looked.
func (c *call) order() string {
	return fmt.Sprintf("%03d %02d %s %012d %012d", c.actor, c.op.Kind, c.op.Key, c.op.Offset, c.op.Length)
}

// mix says how often things go wrong in a schedule. Each schedule draws its own,
// so that some are calm, and some have one kind of trouble only.
type mix struct {
	fault, kill float64 // share of the calls that fail, or end their process
	late        float64 // how likely a late effect lands before a step
	pause       float64 // how likely time goes by before a step
	actions     []repotest.Action
	pct         int // change points of priorities; 0 means uniform choice
}

func drawMix(rng *rand.Rand) mix {
	all := []repotest.Action{repotest.FailBefore, repotest.FailAfter, repotest.Late, repotest.Twice, repotest.Hang, repotest.HangAfter}
	m := mix{
		fault: []float64{0, 0, 0.02, 0.1, 0.3}[rng.IntN(5)],
		kill:  []float64{0, 0, 0.01, 0.04}[rng.IntN(4)],
		late:  []float64{0.02, 0.1, 0.5}[rng.IntN(3)],
		pause: []float64{0, 0.01, 0.05}[rng.IntN(3)],
	}
	for _, a := range all {
		if rng.IntN(2) == 0 {
			m.actions = append(m.actions, a)
		}
	}
	if len(m.actions) == 0 {
		m.actions = all
	}
	if rng.IntN(2) == 0 {
		m.pct = 1 + rng.IntN(4)
	}
	return m
}

// scheduler decides what happens next.
type scheduler struct {
	rng   *rand.Rand
	mix   mix
	world *repotest.Bucket
	// after, if set, is called when a call took effect, while all others wait.
	after   func(c *call)
	arrived chan struct{}

	// hangs is until when a call of an actor may hang. Two at once could end at
	// the same time, and nobody knows in which order they would go on.
	hangs   []time.Time
	prio    []int       // of each actor, under PCT
	changes map[int]int // what a step lowers a priority to

	mu      sync.Mutex
	waiting []*call
	names   map[string]int
	running int

	trace                       trace
	steps, faults, kills, lates int
}

// trace identifies a schedule: the same calls with the same answers.
type trace struct {
	sum   uint64
	lines []string // if verbose
	keep  bool
}

func (t *trace) add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%x %s", t.sum, line) // cannot fail
	t.sum = h.Sum64()
	if t.keep {
		t.lines = append(t.lines, line)
	}
}

func newScheduler(rng *rand.Rand, m mix, world *repotest.Bucket, actors int) *scheduler {
	s := &scheduler{rng: rng, mix: m, world: world, arrived: make(chan struct{}, 1), names: map[string]int{}, running: actors}
	s.prio, s.hangs = rng.Perm(actors), make([]time.Time, actors)
	s.changes = map[int]int{}
	for i := range m.pct {
		s.changes[rng.IntN(300)] = -1 - i
	}
	return s
}

// process returns the view of a new process of the actor.
func (s *scheduler) process(actor, pageSize int) *repotest.Bucket {
	var b *repotest.Bucket
	b = s.world.Open(&repotest.Options{PageSize: pageSize, Fault: func(op repotest.Op) repotest.Fault {
		c := &call{actor: actor, b: b, op: op, answer: make(chan repotest.Fault, 1)}
		s.mu.Lock()
		s.waiting = append(s.waiting, c)
		s.mu.Unlock()
		s.wake()
		return <-c.answer
	}})
	return b
}

func (s *scheduler) wake() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// finished says that an actor is done.
func (s *scheduler) finished() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.wake()
}

var randomPart = regexp.MustCompile(`[0-9a-f]{16,}`)

// normal replaces the random parts of a key by the order of their appearance.
func (s *scheduler) normal(key string) string {
	return randomPart.ReplaceAllStringFunc(key, func(id string) string {
		n, ok := s.names[id]
		if !ok {
			n = len(s.names)
			s.names[id] = n
		}
		return fmt.Sprint("#", n)
	})
}

// stuck is after how long nobody can be waiting for anything any more.
const stuck = 100 * 24 * time.Hour

// run drives the processes to their end. It reports false if they hang.
func (s *scheduler) run() bool {
	for {
		synctest.Wait()
		s.mu.Lock()
		running, n := s.running, len(s.waiting)
		s.mu.Unlock()
		if n == 0 {
			if running == 0 {
				return true
			}
			select {
			case <-s.arrived:
				continue
			case <-time.After(stuck):
				return false
			}
		}
		s.step()
	}
}

// step lets one thing happen.
func (s *scheduler) step() {
	s.steps++
	time.Sleep(time.Nanosecond) // so that no two timers are due at the same time, whose order nobody knows
	synctest.Wait()
	if p := s.world.Pending(); p > 0 && s.rng.Float64() < s.mix.late {
		i := s.rng.IntN(p)
		s.trace.add("late effect %d lands", i)
		s.world.SettleAt(i)
		s.lates++
	}
	if s.rng.Float64() < s.mix.pause {
		d := []time.Duration{time.Second, 10 * time.Minute, 30 * time.Hour}[s.rng.IntN(3)]
		s.trace.add("%v pass", d)
		time.Sleep(d)
		synctest.Wait()
	}
	c := s.choose()
	f := s.answer(c)
	s.trace.add("%d %v %s %v %t", c.actor, c.op.Kind, c.key, f.Action, f.Kill)
	c.answer <- f
	if s.after != nil {
		synctest.Wait()
		s.after(c)
	}
}

// choose takes one of the waiting calls.
func (s *scheduler) choose() *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortStableFunc(s.waiting, func(a, b *call) int { return strings.Compare(a.order(), b.order()) })
	i := s.rng.IntN(len(s.waiting))
	if s.mix.pct > 0 {
		best := s.waiting[0].actor
		for _, c := range s.waiting {
			if s.prio[c.actor] > s.prio[best] {
				best = c.actor
			}
		}
		if low, ok := s.changes[s.steps]; ok {
			s.prio[best] = low
		}
		for s.waiting[i].actor != best {
			i = (i + 1) % len(s.waiting)
		}
	}
	c := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	c.key = s.normal(c.op.Key)
	return c
}

// answer decides what happens to a call.
func (s *scheduler) answer(c *call) repotest.Fault {
	ends := []repotest.Action{repotest.None, repotest.FailAfter, repotest.Late, repotest.Twice}
	switch {
	case c.b.Killed(): // a request that was on its way when its process died
		return repotest.Fault{Action: ends[s.rng.IntN(len(ends))], Kill: true}
	case s.rng.Float64() < s.mix.kill:
		s.kills++
		return repotest.Fault{Action: ends[s.rng.IntN(len(ends))], Kill: true}
	case s.rng.Float64() < s.mix.fault:
		s.faults++
		return repotest.Fault{Action: s.hanging(c.actor, s.mix.actions[s.rng.IntN(len(s.mix.actions))])}
	}
	return repotest.Fault{}
}

// hanging returns the action, or one that fails at once if the actor has a call
// that hangs.
func (s *scheduler) hanging(actor int, a repotest.Action) repotest.Action {
	if a != repotest.Hang && a != repotest.HangAfter {
		return a
	}
	if time.Now().Before(s.hangs[actor]) {
		return map[repotest.Action]repotest.Action{repotest.Hang: repotest.FailBefore, repotest.HangAfter: repotest.FailAfter}[a]
	}
	s.hangs[actor] = time.Now().Add(10 * time.Minute) // longer than any single try
	return a
}
