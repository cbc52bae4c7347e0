// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	noBarrier    bug = "no barrier"             // the cut does not wait for all members
	thawFirst    bug = "thaw before the cut"    // and the targets do not mind
	wrongOrder   bug = "wrong order"            // dependencies are the wrong way round
	longHold     bug = "hold beyond the window" // each freeze gets more than is left of it
	foreignIsOK  bug = "foreign freeze is ours" // a freeze of somebody else counts as success
	staleFreezes bug = "stale freezes"          // only freezes are not checked for their epoch
)

// sim is one schedule: two coordinators of one application, what it freezes,
// and everything that can go wrong. It is deterministic: each actor has a
// random source and instants of its own.
type sim struct {
	bug     bug
	rng     *rand.Rand // of the one who makes the schedule
	targets []*simTarget
	journal *hooks.MemJournal

	mu     sync.Mutex
	actors int
	trace  []string
	wrong  []string
	stats  simStats
}

type simStats struct{ kills, lateFreezes, lateThaws, duplicates, restarts, freezes, proven int }

func (a *simStats) add(b simStats) {
	a.kills += b.kills
	a.lateFreezes += b.lateFreezes
	a.lateThaws += b.lateThaws
	a.duplicates += b.duplicates
	a.restarts += b.restarts
	a.freezes += b.freezes
	a.proven += b.proven
}

// violate notes a broken promise. s.mu is held.
func (s *sim) violate(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// note adds to the trace. s.mu is held.
func (s *sim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// simTarget obeys requests, whoever they come from and however late. Its fields
// belong to sim.mu.
type simTarget struct {
	s        *sim
	name     string
	frozen   bool
	epoch    hooks.Epoch
	number   int // of the freeze
	since    time.Time
	minEpoch hooks.Epoch
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
		return 0, hooks.ErrForeignFreeze
	}
	t.frozen, t.epoch, t.since = true, epoch, time.Now()
	t.number++
	t.s.stats.freezes++
	if t.s.bug != noWatchdog {
		if t.s.bug == longHold {
			window *= 2
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
	}
	return t.number, nil
}

func (t *simTarget) release(why string) {
	if d := time.Since(t.since); d > hooks.DefaultWindow {
		t.s.violate("%s was frozen for %v", t.name, d)
	}
	t.s.note("%s is thawed by %s", t.name, why)
	t.frozen = false
	if t.lease != nil {
		t.lease.Stop()
	}
}

// thaw ends a freeze of this epoch or before, and says whether there was one.
func (t *simTarget) thaw(epoch hooks.Epoch) bool {
	t.minEpoch = max(t.minEpoch, epoch+1)
	if !t.frozen || t.epoch > epoch && t.s.bug != noEpoch {
		return false
	}
	if t.epoch > epoch {
		t.s.violate("%s: the freeze of epoch %d was thawed by epoch %d", t.name, t.epoch, epoch)
	}
	t.release(fmt.Sprint("epoch ", epoch))
	return true
}

// restart loses the freeze and, as a process does, the memory of epochs.
func (t *simTarget) restart() {
	t.s.stats.restarts++
	if t.frozen {
		t.release("restart")
	}
	t.minEpoch = 0
}

// simProcess is one life of a coordinator.
type simProcess struct {
	s    *sim
	name string
	dead bool
	safe bool // nothing goes wrong with it
}

// kill kills the process. s.mu is held.
func (p *simProcess) kill() {
	if !p.dead {
		p.dead = true
		p.s.stats.kills++
		p.s.note("%s is killed", p.name)
	}
}

// simQuiescer is how one process reaches one target.
type simQuiescer struct {
	p     *simProcess
	t     *simTarget
	below []*simQuiescer // what it depends on
	rng   *rand.Rand
	tick  time.Duration // makes its instants its own
	// By epoch: it was asked to freeze, it holds, and it was asked to thaw.
	asked, holds, thaws map[hooks.Epoch]bool
}

func (s *sim) quiescer(p *simProcess, t *simTarget) *simQuiescer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.actors++
	return &simQuiescer{
		p: p, t: t, rng: rand.New(rand.NewPCG(s.rng.Uint64(), 0)), tick: time.Duration(s.actors),
		asked: make(map[hooks.Epoch]bool), holds: make(map[hooks.Epoch]bool), thaws: make(map[hooks.Epoch]bool),
	}
}

var errSim = errors.New("injected")

// do is one request of a process to its target, with all that can happen to it.
func (q *simQuiescer) do(ctx context.Context, op string, effect func() error) error {
	s := q.p.s
	pause := func(limit time.Duration) {
		d := time.Duration(q.rng.Int64N(int64(limit))).Truncate(time.Microsecond)
		time.Sleep(d + q.tick)
	}
	fault := 99
	if q.p.safe {
		time.Sleep(q.tick)
	} else {
		fault = q.rng.IntN(40)
		pause(150 * time.Millisecond)
	}
	reach := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if q.p.dead {
			return hookstest.ErrKilled
		}
		err := effect()
		s.note("%s %s %s: %v", q.p.name, op, q.t.name, err)
		return err
	}
	later := func(count *int) {
		s.mu.Lock()
		*count++
		s.mu.Unlock()
		d := time.Duration(q.rng.Int64N(int64(30*time.Second))).Truncate(time.Microsecond) + q.tick
		time.AfterFunc(d, func() { // on its way: whoever sent it may be dead
			s.mu.Lock()
			defer s.mu.Unlock()
			s.note("late %s of %s at %s: %v", op, q.p.name, q.t.name, effect())
		})
	}
	var unused int
	switch fault {
	case 0: // it does not get there
		return errSim
	case 1: // its reply does not come back
		if err := reach(); err != nil {
			return err
		}
		return errSim
	case 2, 3: // it arrives when nobody waits any more
		later(map[string]*int{"freeze": &s.stats.lateFreezes, "thaw": &s.stats.lateThaws, "recover": &s.stats.lateThaws, "held": &unused}[op])
		<-ctx.Done()
		return ctx.Err()
	case 4: // it arrives twice
		later(&s.stats.duplicates)
		return reach()
	case 5: // it hangs
		<-ctx.Done()
		return ctx.Err()
	case 6: // its process dies before, or after
		s.mu.Lock()
		q.p.kill()
		s.mu.Unlock()
		return reach()
	case 7:
		err := reach()
		s.mu.Lock()
		q.p.kill()
		s.mu.Unlock()
		return err
	case 8: // it takes its time
		select {
		case <-time.After(time.Duration(q.rng.Int64N(int64(5*time.Second))).Truncate(time.Microsecond) + q.tick):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := reach()
	if !q.p.safe {
		pause(20 * time.Millisecond)
	}
	return err
}

func (q *simQuiescer) Traits() hooks.Traits { return hooks.Traits{Scope: hooks.Application} }

func (q *simQuiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	h := &simHold{q: q, epoch: req.Epoch}
	q.p.s.mu.Lock()
	q.asked[req.Epoch] = true
	for _, below := range q.below {
		if below.asked[req.Epoch] {
			q.p.s.violate("%s freezes after %s, which it depends on", q.t.name, below.t.name)
		}
	}
	q.p.s.mu.Unlock()
	if q.p.s.bug == noBarrier && len(q.below) == 0 {
		time.AfterFunc(200*time.Millisecond+q.tick, func() {
			q.p.s.mu.Lock()
			defer q.p.s.mu.Unlock()
			if !q.p.dead {
				h.number, _ = q.t.freeze(req.Epoch, req.Window)
			}
		})
		return h, nil
	}
	err := q.do(ctx, "freeze", func() error {
		number, err := q.t.freeze(req.Epoch, req.Window)
		if h.number == 0 { // the reply to a duplicate goes to nobody
			h.number = number
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	q.p.s.mu.Lock()
	q.holds[req.Epoch] = true
	q.p.s.mu.Unlock()
	if q.p.s.bug == thawFirst {
		_, _ = h.Thaw(ctx)
	}
	return h, nil
}

func (q *simQuiescer) Recover(ctx context.Context, epoch hooks.Epoch) error {
	return q.do(ctx, "recover", func() error { q.t.thaw(epoch); return nil })
}

type simHold struct {
	q      *simQuiescer
	epoch  hooks.Epoch
	number int
}

func (h *simHold) Held(ctx context.Context) error {
	return h.q.do(ctx, "held", func() error {
		t, b := h.q.t, h.q.p.s.bug
		switch {
		case b == noProof, b == thawFirst:
			return nil
		case t.frozen && t.epoch == h.epoch && (t.number == h.number || b == epochProof):
			return nil
		case t.frozen && (b == noEpoch || b == foreignIsOK):
			return nil
		}
		return hooks.ErrHoldLost
	})
}

func (h *simHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	s := h.q.p.s
	s.mu.Lock()
	for _, below := range h.q.below {
		if below.holds[h.epoch] && !below.thaws[h.epoch] {
			s.violate("%s thaws before %s, which it depends on", h.q.t.name, below.t.name)
		}
	}
	s.mu.Unlock()
	err := h.q.do(ctx, "thaw", func() error {
		if h.q.t.thaw(h.epoch) || s.bug == noProof || s.bug == thawFirst || s.bug == foreignIsOK {
			return nil
		}
		return hooks.ErrHoldLost
	})
	s.mu.Lock()
	h.q.thaws[h.epoch] = true
	s.mu.Unlock()
	return nil, err
}

// simJournal is the journal as one process sees it.
type simJournal struct {
	p *simProcess
	hooks.Journal
	own map[hooks.Epoch]bool
}

func (j *simJournal) alive() error {
	j.p.s.mu.Lock()
	defer j.p.s.mu.Unlock()
	if j.p.dead {
		return hookstest.ErrKilled
	}
	return nil
}

func (j *simJournal) Begin(ctx context.Context, in hooks.Intent) (hooks.Epoch, error) {
	if err := j.alive(); err != nil {
		return 0, err
	}
	epoch, err := j.Journal.Begin(ctx, in)
	j.own[epoch] = true
	return epoch, err
}

func (j *simJournal) End(ctx context.Context, epoch hooks.Epoch) error {
	if err := j.alive(); err != nil {
		return err
	}
	return j.Journal.End(ctx, epoch)
}

func (j *simJournal) Pending(ctx context.Context) ([]hooks.Intent, error) {
	if err := j.alive(); err != nil {
		return nil, err
	}
	intents, err := j.Journal.Pending(ctx)
	return slices.DeleteFunc(intents, func(in hooks.Intent) bool { return j.p.s.bug == noIntent && !j.own[in.Epoch] }), err
}
