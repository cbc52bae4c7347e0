// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"strings"
)

// sim is one schedule: a store, its processes and what was promised.
type sim struct {
	seed   uint64
	rng    rng // the scheduler's
	mut    mutations
	cfg    config
	st     store
	obj    objects
	o      oracle
	actors []*actor
	late   []op
	step   int
	low    int
	hash   uint64
	stats  stats
	trace  *strings.Builder // nil: none
}

// stats counts what happened, for the report.
type stats struct {
	ops, crashes, faults, lates, dups                           int
	fences, rescues, packDeletes, acked, forgets, holds, merges int
	gaveUp, exhausted, alarms, restarts                         int
}

func (t *stats) add(o *stats) {
	t.ops += o.ops
	t.crashes += o.crashes
	t.faults += o.faults
	t.lates += o.lates
	t.dups += o.dups
	t.fences += o.fences
	t.rescues += o.rescues
	t.packDeletes += o.packDeletes
	t.acked += o.acked
	t.forgets += o.forgets
	t.holds += o.holds
	t.merges += o.merges
	t.gaveUp += o.gaveUp
	t.exhausted += o.exhausted
	t.alarms += o.alarms
	t.restarts += o.restarts
}

// config is drawn for each schedule, so that the schedules differ in kind and not
// only in order.
type config struct {
	names, chunks        int
	writers, sessions    int
	collectors, rounds   int
	forgetters, forgets  int
	holders, compactors  int
	warm                 int // points before anything goes wrong
	crash, errs, dup     int // chances in 1000 calls
	crashes              int // at most
	paging, young        int // percent
	repack, wild         int // percent
	thrift, fencing, pct bool
	heirs                bool // each session reuses all of a parent
	change               [6]int
}

func (s *sim) draw() {
	r := &s.rng
	c := &s.cfg
	c.names, c.chunks = 1+r.n(3), 2+r.n(5)
	c.writers, c.sessions = 1+r.n(3), 1+r.n(2)
	c.collectors, c.rounds = 1+r.n(3), 1+r.n(2)
	c.forgetters, c.forgets = r.n(3), 1+r.n(2)
	c.holders, c.compactors = r.n(4)/3, r.n(4)/3
	c.warm = r.n(4)
	level := []int{0, 3, 12, 40}
	c.crash, c.errs, c.dup = level[r.n(4)], level[r.n(4)], level[r.n(3)]
	c.crashes = 3
	c.paging = []int{0, 20, 50}[r.n(3)]
	c.young = []int{0, 30, 70}[r.n(3)]
	c.repack, c.wild = []int{0, 0, 30}[r.n(3)], []int{0, 0, 20, 60}[r.n(4)]
	c.thrift, c.fencing = r.n(2) == 0, c.young == 0
	c.pct, c.heirs = r.n(3) > 0, r.n(3) == 0
	for i := range c.change {
		c.change[i] = r.n(600)
	}
}

func newSim(seed uint64, m ...mutation) *sim {
	s := &sim{seed: seed, rng: rng(mix(seed)), hash: 14695981039346656037}
	for _, x := range m {
		s.mut |= 1 << x
	}
	s.obj.used[session].add(fence) // no session has the number that means fence
	return s
}

func (s *sim) mutant(m mutation) bool { return s.mut&(1<<m) != 0 }

// run performs the whole schedule.
func (s *sim) run() {
	s.draw()
	for range s.cfg.warm {
		s.finish(s.start(&writerRole, 1, nil))
	}
	s.cast()
	for s.step = 0; s.step < 6000 && s.o.violation == ""; s.step++ {
		a := s.choose()
		if a == nil {
			break
		}
		s.advance(a)
		if len(s.late) > 0 && s.rng.n(12) == 0 {
			s.land(s.rng.n(len(s.late)))
		}
	}
	s.settle()
	for _, a := range s.actors {
		a.stop()
	}
}

func (s *sim) cast() {
	c := &s.cfg
	for range c.writers {
		s.start(&writerRole, c.sessions, nil)
	}
	for range c.collectors {
		s.start(&collectorRole, c.rounds, nil)
	}
	for range c.forgetters {
		s.start(&forgetterRole, c.forgets, nil)
	}
	for range c.holders {
		s.start(&holderRole, 1, nil)
	}
	for range c.compactors {
		s.start(&compactorRole, 1, nil)
	}
}

// choose picks who runs: at random, or (PCT) the one with the highest priority,
// which falls at a few random moments.
func (s *sim) choose() *actor {
	var can [16]*actor
	n := 0
	for _, a := range s.actors {
		if a.ready && n < len(can) {
			can[n] = a
			n++
		}
	}
	if n == 0 {
		return nil
	}
	a := can[s.rng.n(n)]
	if !s.cfg.pct {
		if a.stall > s.step && n > 1 { // somebody who sleeps gets another draw, not a ban
			a = can[s.rng.n(n)]
		} else if s.rng.n(40) == 0 {
			a.stall = s.step + s.rng.n(200)
		}
		return a
	}
	for _, x := range can[:n] {
		if x.prio > a.prio {
			a = x
		}
	}
	for _, at := range s.cfg.change {
		if at == s.step {
			s.low--
			a.prio = s.low
		}
	}
	return a
}

// advance performs the pending call of a, or what befalls it.
func (s *sim) advance(a *actor) {
	o, c := a.ask, &s.cfg
	x := s.rng.n(1000)
	if o.mutates() { // a schedule has far more reads, whose faults show less
		x = s.rng.n(250)
	}
	switch {
	case s.stats.crashes < c.crashes && x < c.crash:
		s.crash(a, o)
		return
	case x < c.crash+c.errs:
		s.stats.faults++
		switch s.rng.n(3) {
		case 0: // before
			s.note(a, o, 1, failed)
		case 1: // after: the answer is lost
			s.effect(o)
			s.note(a, o, 2, failed)
		default: // later
			if o.mutates() {
				s.stats.lates++
				s.late = append(s.late, o)
			}
			s.note(a, o, 3, failed)
		}
		a.step(reply{status: failed})
		return
	case x < c.crash+c.errs+c.dup && o.mutates():
		s.stats.dups++
		s.late = append(s.late, o)
	}
	r := s.effect(o)
	s.note(a, o, 0, r.status)
	a.step(r)
}

// crash kills a, and starts its successor, which knows nothing.
func (s *sim) crash(a *actor, o op) {
	s.stats.crashes++
	how := s.rng.n(3)
	switch {
	case how == 0:
		s.effect(o)
	case how == 1 && o.mutates():
		s.stats.lates++
		s.late = append(s.late, o)
	}
	s.note(a, o, 4+how, failed)
	a.stop()
	a.ready = false
	s.start(a.role, a.left+1, nil)
}

// effect applies a call and lets the oracle look.
func (s *sim) effect(o op) reply {
	s.stats.ops++
	r := s.st.apply(o)
	if o.mutates() {
		if o.verb == del && o.kind == pack {
			s.stats.packDeletes++
		}
		s.check(o.kind)
	}
	return r
}

// land applies a call whose sender has long stopped to wait for it.
func (s *sim) land(i int) {
	o := s.late[i]
	s.late[i] = s.late[len(s.late)-1]
	s.late = s.late[:len(s.late)-1]
	r := s.effect(o)
	s.note(nil, o, 7, r.status)
}

func (s *sim) note(a *actor, o op, fault int, st status) {
	id := 63
	if a != nil {
		id = a.id
	}
	v := uint64(id)<<40 | uint64(fault)<<36 | uint64(o.verb)<<32 | uint64(o.kind)<<28 | uint64(o.key)<<20 | uint64(o.lo+o.hi)<<8 | uint64(st)
	s.hash = mix(s.hash ^ v)
	if s.trace != nil {
		who := "late"
		if a != nil {
			who = fmt.Sprintf("%s%d", a.role.name, a.id)
		}
		how := [...]string{"", " ERROR before", " ERROR after", " ERROR, late", " CRASH after", " CRASH, late", " CRASH before", ""}[fault]
		fmt.Fprintf(s.trace, "%4d %-10s %s: %s%s\n", s.step, who, o, statusNames[st], how)
		if s.o.violation != "" {
			fmt.Fprintf(s.trace, "     VIOLATION %s\n", s.o.violation)
		}
	}
}

func (s *sim) say(a *actor, format string, args ...any) {
	if s.trace != nil {
		fmt.Fprintf(s.trace, "     %s%d %s\n", a.role.name, a.id, fmt.Sprintf(format, args...))
	}
}

// finish runs a to its end without faults.
func (s *sim) finish(a *actor) {
	for a.ready && s.o.violation == "" {
		r := s.effect(a.ask)
		s.note(a, a.ask, 0, r.status)
		a.step(r)
	}
}

// settle ends the faults: what is in flight lands, and collections in peace must
// bring the repository to rest, able to take another point.
func (s *sim) settle() {
	s.cfg.fencing, s.cfg.young, s.cfg.repack, s.cfg.wild = true, 0, 0, 0
	for i := 0; i < 6 && s.o.violation == ""; i++ {
		for n := len(s.late); n > 0 && s.o.violation == ""; n-- {
			if i > 0 || s.rng.n(2) == 0 {
				s.land(s.rng.n(len(s.late)))
			}
		}
		s.finish(s.start(&collectorRole, 1, nil))
	}
	if s.o.violation == "" {
		s.settled()
	}
	acked := s.stats.acked
	if s.finish(s.start(&writerRole, 1, nil)); s.stats.acked == acked && s.stats.exhausted == 0 {
		s.violate("P7: no new point in peace")
	}
}
