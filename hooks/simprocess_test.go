// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// simProcess is one life of a coordinator. Its fields belong to sim.mu.
type simProcess struct {
	s       *sim
	name    string
	dead    bool
	safe    bool          // nothing goes wrong with it
	stopped time.Time     // until when it does not run
	skew    time.Duration // of its clock
	// Of its newest freeze: the first request to freeze and the last reply to
	// a thaw.
	first, last time.Time
}

// kill kills the process. s.mu is held.
func (p *simProcess) kill() {
	if !p.dead {
		p.dead = true
		p.s.stats["kills"]++
		p.s.note("%s is killed", p.name)
	}
}

// stop stops the process for a time, as SIGSTOP does. s.mu is held.
func (p *simProcess) stop(d time.Duration) {
	p.s.stats["stalls"]++
	p.stopped = time.Now().Add(d)
	p.s.note("%s is stopped for %v", p.name, d)
}

// simWay is how a process reaches something: with a random source and instants
// of its own.
type simWay struct {
	p     *simProcess
	to    *simTarget // nil: the journal
	rng   *rand.Rand
	tick  time.Duration // makes its instants its own
	waits int           // calls that waited for the process
}

func (s *sim) way(p *simProcess) simWay {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.actors++
	return simWay{p: p, rng: rand.New(rand.NewPCG(s.rng.Uint64(), 0)), tick: time.Duration(s.actors)}
}

// awake waits until the process runs: one that is stopped neither sends nor
// receives.
func (w *simWay) awake() {
	for {
		w.p.s.mu.Lock()
		d := time.Until(w.p.stopped)
		if d > 0 {
			w.waits++
			d = d.Truncate(time.Microsecond) + time.Duration(w.waits)*time.Microsecond + w.tick
		}
		w.p.s.mu.Unlock()
		if d <= 0 {
			return
		}
		time.Sleep(d)
	}
}

var errSim = errors.New("injected")

// simFault is what happens to one request.
type simFault int

// Other numbers are no fault.
const (
	lostRequest simFault = iota
	lostReply
	lateEffect // it arrives when nobody waits any more
	lateAgain
	duplicated
	hangs
	killedBefore
	killedAfter
	slow
	slowReply
	stoppedBefore
	stoppedAfter
	clockJump
	targetRestarts // while this or the next requests are under way
	noFault
)

// simDraw is all that is random in one request.
type simDraw struct {
	fault                             simFault
	before, after, slow, stopped, way time.Duration
	skew                              time.Duration
}

func (w *simWay) draw() simDraw {
	w.p.s.mu.Lock()
	defer w.p.s.mu.Unlock()
	if w.p.safe {
		return simDraw{fault: noFault, before: w.tick}
	}
	d := simDraw{
		fault:  simFault(w.rng.IntN(w.p.s.calm)),
		before: random(w.rng, 150*time.Millisecond) + w.tick,
		after:  random(w.rng, 20*time.Millisecond) + w.tick,
	}
	switch d.fault {
	case lateEffect, lateAgain, duplicated, targetRestarts:
		limit := 30 * time.Second
		if d.fault == targetRestarts || w.rng.IntN(2) == 0 {
			limit = 3 * time.Second
		}
		d.way = random(w.rng, limit) + w.tick
	case slow:
		d.slow = random(w.rng, 5*time.Second) + w.tick
	case slowReply:
		d.after = random(w.rng, 15*time.Second) + w.tick
	case stoppedBefore, stoppedAfter:
		d.stopped = random(w.rng, 2*time.Minute)
	case clockJump:
		d.skew = random(w.rng, 6*24*time.Hour) - 3*24*time.Hour
		if w.rng.IntN(2) == 0 {
			d.skew /= 1000
		}
	default:
	}
	return d
}

// do is one request of a process, with all that can happen to it.
func (w *simWay) do(ctx context.Context, op, to string, effect func() error) error {
	s := w.p.s
	s.under(1)
	defer s.under(-1)
	d := w.draw()
	w.awake()
	defer w.awake() // only then it has the reply
	time.Sleep(d.before)
	reach := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.fault == killedBefore {
			w.p.kill()
		}
		if w.p.dead {
			return hookstest.ErrKilled
		}
		err := effect()
		s.note("%s %s %s: %v", w.p.name, op, to, err)
		if d.fault == killedAfter {
			w.p.kill()
		}
		return err
	}
	switch d.fault {
	case lostRequest:
		return errSim
	case lostReply:
		w.count("lost replies of " + op)
		return errors.Join(errSim, reach())
	case lateEffect, lateAgain:
		w.late(op, to, d.way, effect)
		<-ctx.Done()
		return ctx.Err()
	case duplicated:
		w.late(op, to, d.way, effect)
		w.count("duplicates of " + op)
	case targetRestarts:
		if w.to != nil {
			s.later(d.way, w.to.restart)
		}
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	case slow:
		select {
		case <-time.After(d.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	case stoppedBefore, stoppedAfter:
		s.mu.Lock()
		w.p.stop(d.stopped)
		s.mu.Unlock()
		if d.fault == stoppedBefore {
			w.awake()
		}
	case clockJump:
		s.mu.Lock()
		w.p.skew = d.skew
		s.stats["clock jumps"]++
		s.mu.Unlock()
	default:
	}
	err := reach()
	if d.after > 0 {
		time.Sleep(d.after)
	}
	return err
}

func (w *simWay) count(what string) {
	w.p.s.mu.Lock()
	defer w.p.s.mu.Unlock()
	w.p.s.stats[what]++
}

// late lets a request arrive after a while: whoever sent it may be dead.
func (w *simWay) late(op, to string, d time.Duration, effect func() error) {
	w.count("late " + op)
	w.p.s.later(d, func() { w.p.s.note("late %s of %s at %s: %v", op, w.p.name, to, effect()) })
}

// simQuiescer is how one process freezes one target.
type simQuiescer struct {
	simWay
	t     *simTarget
	below []*simQuiescer // what it depends on
	// By epoch: it was asked to freeze, it holds, and it has thawed.
	asked, holds, thaws map[hooks.Epoch]bool
	thawing             map[hooks.Epoch]time.Time // since when
}

func (s *sim) quiescer(p *simProcess, t *simTarget) *simQuiescer {
	way := s.way(p)
	way.to = t
	return &simQuiescer{
		simWay: way, t: t,
		asked: make(map[hooks.Epoch]bool), holds: make(map[hooks.Epoch]bool), thaws: make(map[hooks.Epoch]bool),
		thawing: make(map[hooks.Epoch]time.Time),
	}
}

func (q *simQuiescer) Traits() hooks.Traits { return hooks.Traits{Scope: hooks.Application} }

func (q *simQuiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	h := &simHold{q: q, epoch: req.Epoch}
	s := q.p.s
	s.mu.Lock()
	q.asked[req.Epoch] = true
	if q.p.first.IsZero() {
		q.p.first = time.Now()
	}
	if s.bug == wholeWindow {
		req.Window = hooks.DefaultWindow
	}
	if left := hooks.DefaultWindow - time.Since(q.p.first); req.Window > left {
		s.violate("%s is to freeze for %v, and %v are left", q.t.name, req.Window, left)
	}
	for _, below := range q.below {
		if below.asked[req.Epoch] {
			s.violate("%s freezes after %s, which it depends on", q.t.name, below.t.name)
		}
	}
	s.mu.Unlock()
	if s.bug == noBarrier && len(q.below) == 0 {
		s.later(200*time.Millisecond+q.tick, func() {
			if !q.p.dead {
				h.number, _ = q.t.freeze(req.Epoch, req.Window)
			}
		})
		return h, nil
	}
	first := true
	err := q.do(ctx, "freeze", q.t.name, func() error {
		number, err := q.t.freeze(req.Epoch, req.Window)
		if first { // the reply to a duplicate goes to nobody
			h.number = number
			if err == nil {
				s.intended(q.t)
			}
		}
		first = false
		return err
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	q.holds[req.Epoch] = ctx.Err() == nil // or nobody waits for it any more
	s.mu.Unlock()
	if s.bug == thawFirst {
		_, _ = h.Thaw(ctx)
	}
	return h, nil
}

func (q *simQuiescer) Recover(ctx context.Context, epoch hooks.Epoch) error {
	return q.do(ctx, "recover", q.t.name, func() error { q.t.thaw(epoch); return nil })
}

// thawTimeout is that of a Group that sets none.
const thawTimeout = 10 * time.Second

type simHold struct {
	q      *simQuiescer
	epoch  hooks.Epoch
	number int
}

func (h *simHold) Held(ctx context.Context) error {
	s := h.q.p.s
	if s.bug == earlyEnd {
		s.mu.Lock()
		_ = s.end(ctx, h.epoch)
		s.mu.Unlock()
	}
	return h.q.do(ctx, "held", h.q.t.name, func() error {
		t, b := h.q.t, s.bug
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
	if h.q.thawing[h.epoch].IsZero() {
		h.q.thawing[h.epoch] = time.Now()
	}
	for _, below := range h.q.below {
		since := below.thawing[h.epoch]
		givenUp := !since.IsZero() && time.Since(since) >= thawTimeout
		if below.holds[h.epoch] && !below.thaws[h.epoch] && !givenUp {
			s.violate("%s thaws before %s, which it depends on", h.q.t.name, below.t.name)
		}
	}
	s.mu.Unlock()
	err := h.q.do(ctx, "thaw", h.q.t.name, func() error {
		if h.q.t.thaw(h.epoch) || s.bug == noProof || s.bug == thawFirst || s.bug == foreignIsOK {
			return nil
		}
		return hooks.ErrHoldLost
	})
	s.mu.Lock()
	h.q.thaws[h.epoch] = true
	h.q.p.last = time.Now()
	s.mu.Unlock()
	return nil, err
}
