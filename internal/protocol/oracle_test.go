// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"math/bits"
)

// oracle is what an omniscient observer knows: what was promised to whom.
type oracle struct {
	acked     uint64 // attempts reported as success
	ackedRec  [maxPacks]uint8
	forgotten uint64 // attempts that somebody at least began to forget
	gone      uint64 // attempts whose Forget was acknowledged
	wasLive   keyset // records that were live at some moment
	fenced    keyset // sessions that were told ErrFenced
	held      keyset // holds that were acknowledged and not given back

	dead, named, live uint64 // what the store says now
	avail             uint32
	violation         string
}

func (s *sim) violate(format string, args ...any) {
	if s.o.violation == "" {
		s.o.violation = fmt.Sprintf(format, args...)
	}
}

// deadNow is the set of attempts that are not live whatever their key holds.
func (s *sim) deadNow() uint64 {
	d := s.unite(closed)
	if s.mutant(holdRevives) {
		d |= s.st.there[forget][0] &^ s.heldNow(&s.st.there[hold])
	}
	return d
}

func (s *sim) heldNow(holds *keyset) (k uint64) {
	for h := holds.next(0); h < keys; h = holds.next(h + 1) {
		k |= 1 << s.obj.holdOf[h]
	}
	return k
}

// liveNow is the set of attempts that are live.
func (s *sim) liveNow() (live uint64) {
	each(s.st.there[point][0]&^s.o.dead, func(k int) {
		if s.st.value[point][k] != fence {
			live |= 1 << k
		}
	})
	return live
}

// check looks at the store after a mutation of a kind.
func (s *sim) check(k kind) {
	o := &s.o
	switch k {
	case pack, index:
		o.named = s.unite(index)
		o.avail = s.chunksOf(s.st.there[pack][0] & o.named)
	case point, closed, forget, hold:
		o.dead = s.deadNow()
		o.live = s.liveNow()
	default:
		return
	}
	names := uint64(0)
	each(o.live, func(k int) {
		sid := s.st.value[point][k]
		o.wasLive.add(sid)
		if lack := s.obj.recChunks[sid] &^ o.avail; lack != 0 {
			s.violate("P1/P2: live point %d of session %d lacks chunks %b", k, sid, lack)
		}
		if o.acked&(1<<k) != 0 && o.ackedRec[k] != sid {
			s.violate("P1: point %d was acknowledged as %d and is %d", k, o.ackedRec[k], sid)
		}
		if o.fenced.has(sid) {
			s.violate("P12: session %d was told ErrFenced, and its point %d is live", sid, k)
		}
		name := uint64(1) << (k / maxTry)
		if names&name != 0 {
			s.violate("uniqueness: two live points of name %d", k/maxTry)
		}
		names |= name
	})
	if lost := o.acked &^ o.forgotten &^ o.live; lost != 0 {
		s.violate("P1: acknowledged point %d is not live", bits.TrailingZeros64(lost))
	}
	if back := o.gone & o.live; back != 0 {
		s.violate("P12: forgotten point %d is live again", bits.TrailingZeros64(back))
	}
	if lost := s.heldNow(&o.held) &^ o.live; lost != 0 {
		s.violate("P1: held point %d is not live", bits.TrailingZeros64(lost))
	}
}

// ack is the success of a Write: attempt k, with the record of sid.
func (s *sim) ack(k int, sid uint8) {
	o := &s.o
	s.stats.acked++
	bit := uint64(1) << k
	switch {
	case !o.wasLive.has(sid):
		s.violate("P12: success for point %d of session %d, which never was live", k, sid)
	case o.acked&bit != 0 && o.ackedRec[k] != sid:
		s.violate("uniqueness: point %d acknowledged as %d and %d", k, o.ackedRec[k], sid)
	}
	o.acked |= bit
	o.ackedRec[k] = sid
	s.check(point)
}

// tell is an ErrFenced for a session.
func (s *sim) tell(sid uint8) {
	s.o.fenced.add(sid)
	s.check(point)
}

// settled looks at a repository that was collected in peace.
func (s *sim) settled() {
	st := &s.st
	if x := st.there[session].len(); x > 0 {
		s.violate("P7: %d sessions unresolved", x)
	}
	held := s.heldNow(&st.there[hold])
	if x := st.there[forget][0] &^ held; x != 0 {
		s.violate("P7: forget of %d left", bits.TrailingZeros64(x))
	}
	if x := st.there[point][0] &^ s.o.live; x != 0 {
		s.violate("P7: point %d (%d) left", bits.TrailingZeros64(x), st.value[point][bits.TrailingZeros64(x)])
	}
	if x := held &^ s.o.live; x != 0 {
		s.violate("P7: hold of dead point %d left", bits.TrailingZeros64(x))
	}
	var need uint32
	each(s.o.live, func(k int) { need |= s.obj.recChunks[st.value[point][k]] })
	each(st.there[pack][0], func(p int) {
		if s.o.named&(1<<p) == 0 || s.obj.packChunks[p]&need == 0 {
			s.violate("P7: unreferenced pack %d left", p)
		}
	})
	if x := st.there[pack][0] & s.unite(condemn); x != 0 {
		s.violate("P7: condemned pack %d left", bits.TrailingZeros64(x))
	}
	for _, k := range []kind{index, closed, condemn} {
		if x := st.there[k].len(); x > 2 {
			s.violate("P7: %d objects of %s left", x, kindNames[k])
		}
	}
	if x := st.there[wait].len(); x > 0 {
		s.violate("P7: %d waits left", x)
	}
}
