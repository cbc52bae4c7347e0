// SPDX-License-Identifier: Apache-2.0

package protocol

var forgetterRole = role{"forgetter", (*actor).forget}

// forget asks for the death of one or two points, and closes those that nobody
// holds. A dead process leaves the request, which a collection fulfils.
func (a *actor) forget() {
	s := a.s
	pts := a.readPoints()
	live := pts.live(a.readDead())
	var want uint64
	if a.order != nil {
		want = a.order.victims & live
	} else {
		for range 1 + a.rng.n(2) {
			if k := a.rng.pick(live); k >= 0 {
				want |= 1 << k
			}
		}
	}
	if want == 0 {
		return
	}
	var held uint64
	if s.mutant(holdReadFirst) {
		held = a.readHeld()
	}
	s.o.forgotten |= want
	if s.mutant(forgetDeletes) {
		each(want, func(k int) {
			if a.delete(point, k) {
				s.o.gone |= 1 << k
			}
		})
		return
	}
	each(want, func(k int) { a.create(forget, k) })
	if s.mutant(holdRevives) {
		s.stats.forgets++
		return
	}
	if !s.mutant(holdReadFirst) {
		held = a.readHeld()
	}
	if s.mutant(holdIgnored) {
		held = 0
	}
	if want &^= held; want != 0 {
		a.create(closed, a.newSet(closed, 0, want))
		s.stats.forgets++
		s.say(a, "forgot %b", want)
		s.o.gone |= want
	}
}

func (a *actor) readHeld() uint64 {
	h := a.list(hold)
	return a.s.heldNow(&h)
}

var holderRole = role{"holder", (*actor).hold}

// hold holds a point, and gives the hold back after a while.
func (a *actor) hold() {
	s := a.s
	pts := a.readPoints()
	live := pts.live(a.readDead())
	calls := a.rng.n(20)
	if a.order != nil {
		live, calls = live&a.order.victims, a.order.calls
	}
	k := a.rng.pick(live)
	if k < 0 {
		return
	}
	h := a.fresh(hold, 0, keys)
	s.obj.holdOf[h] = uint8(k)
	a.create(hold, h)
	if !s.mutant(holdUnchecked) {
		_, asked := a.get(forget, k)
		if asked && !s.mutant(holdChecksClosed) || a.readSet(closed).all&(1<<k) != 0 {
			a.delete(hold, h)
			return
		}
	}
	s.stats.holds++
	s.say(a, "holds %d", k)
	s.o.held.add(uint8(h))
	s.check(point)
	for range calls {
		a.list(hold) // time passes
	}
	s.o.held.del(uint8(h))
	a.delete(hold, h)
}
