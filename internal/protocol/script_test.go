// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"strings"
	"testing"
)

// script is a schedule that is written down instead of drawn. It runs against
// the protocol, which must stand it, and against the mutants that it is for.
type script struct {
	*sim
	t *testing.T
}

func newScript(t *testing.T, m ...mutation) *script {
	s := newSim(1, m...)
	s.trace = &strings.Builder{}
	s.cfg = config{names: 4, chunks: 4, fencing: true}
	sc := &script{s, t}
	t.Cleanup(func() {
		for _, a := range s.actors {
			a.stop()
		}
	})
	return sc
}

func (sc *script) writer(o order) *actor    { return sc.start(&writerRole, 1, &o) }
func (sc *script) collector(o order) *actor { return sc.start(&collectorRole, 1, &o) }
func (sc *script) holder(o order) *actor    { return sc.start(&holderRole, 1, &o) }

// forget forgets attempts at once.
func (sc *script) forget(attempts uint64) {
	sc.finish(sc.start(&forgetterRole, 1, &order{victims: attempts}))
}

// point writes a point at once: attempt 0 of a name, of the chunks, and returns
// the word of its attempt.
func (sc *script) point(name int, want uint32) uint64 {
	sc.finish(sc.writer(order{name: name, want: want}))
	return 1 << (name * maxTry)
}

// packs is the word of the packs that exist.
func (sc *script) packs() uint64 { return sc.st.there[pack][0] }

// one performs the pending call of a.
func (sc *script) one(a *actor) {
	r := sc.effect(a.ask)
	sc.note(a, a.ask, 0, r.status)
	a.step(r)
}

// until lets a run until its next call is v of k. It is no failure if a never
// makes that call: a mutant may well not.
func (sc *script) until(a *actor, v verb, k kind) {
	for a.ready && sc.o.violation == "" && (a.ask.verb != v || a.ask.kind != k) {
		sc.one(a)
	}
}

// through lets a run up to and including its next call v of k.
func (sc *script) through(a *actor, v verb, k kind) {
	if sc.until(a, v, k); a.ready {
		sc.one(a)
	}
}

// lose answers the pending call of a with an error, without an effect.
func (sc *script) lose(a *actor) {
	sc.note(a, a.ask, 1, failed)
	a.step(reply{status: failed})
}

// kill is the end of a.
func (sc *script) kill(a *actor) {
	a.stop()
	a.ready = false
}

// marked lets a collector condemn, and list the sessions after that.
func (sc *script) marked(victims uint64, o order) *actor {
	o.victims = victims
	g := sc.collector(o)
	sc.through(g, put, condemn)
	sc.through(g, list, session)
	return g
}

// fold lets a second collector fold, and die before it rescues, if it folds first.
func (sc *script) fold() {
	g := sc.collector(order{})
	if sc.mutant(foldFirst) {
		sc.through(g, del, point)
		sc.kill(g)
		return
	}
	sc.finish(g)
}

// narrow lets new sets of a kind have names in [lo, hi) of level 0 only.
func (sc *script) narrow(k kind, lo, hi int) {
	used := &sc.obj.used[k]
	for key := range leaves {
		if key < lo || key >= hi {
			used.add(uint8(key))
		} else {
			used.del(uint8(key))
		}
	}
}
