// SPDX-License-Identifier: Apache-2.0

package protocol

import "math/bits"

var writerRole = role{"writer", func(a *actor) {
	if a.order != nil {
		a.write(a.order.name)
		return
	}
	name := a.rng.n(a.s.cfg.names)
	for range 2 { // an operator tries again with the same id
		if a.attempt(func() { a.write(name) }) {
			return
		}
	}
}}

// attemptsOf is the word of all attempts of a name.
func attemptsOf(name int) uint64 { return (1<<maxTry - 1) << (name * maxTry) }

// draft is a session on its way to its point.
type draft struct {
	k       int
	sid     uint8
	parents uint64
	reuse   uint32 // chunks reached through a parent's trees
	need    uint32 // chunks that are not
	known   set    // the index
	avoid   uint64 // condemned packs
}

// write is W1 to W8.
func (a *actor) write(name int) {
	var d draft
	early := a.coin(50) // the index is a hint, however old
	if early {
		d.known = a.readSet(index)
	}
	pts, ok := a.begin(name, &d)
	if !ok {
		return
	}
	a.consult(&d)
	if !early {
		d.known = a.readSet(index)
	}
	a.plan(&d, pts)
	if a.s.mutant(commitFirst) {
		a.s.obj.recChunks[d.sid] = d.reuse | d.need
		a.commit(&d)
		a.store(&d)
		return
	}
	a.store(&d)
	a.s.obj.recChunks[d.sid] = d.reuse | d.need
	if a.commit(&d) && a.coin(50) {
		a.delete(session, int(d.sid))
	}
	if a.coin(15) {
		a.compact(index, false)
	}
}

// begin is W1 and W2. It returns false if the point exists.
func (a *actor) begin(name int, d *draft) (records, bool) {
	s := a.s
	var early set
	if s.mutant(condemnedBeforeSession) {
		early = a.readSet(condemn)
	}
	var dead uint64
	if s.mutant(writerReadsClosedFirst) {
		dead = a.readDead()
	}
	pts := a.readPoints()
	if !s.mutant(writerReadsClosedFirst) {
		dead = a.readDead()
	}
	live := pts.live(dead)
	mine := attemptsOf(name)
	if l := live & mine; l != 0 {
		k := 63 - bits.LeadingZeros64(l)
		s.ack(k, pts.val[k])
		return pts, false
	}
	taken := (pts.present | dead) & mine
	if s.mutant(attemptReused) {
		taken = pts.present & mine
	}
	d.k = name * maxTry
	if taken != 0 {
		d.k = 64 - bits.LeadingZeros64(taken)
	}
	if d.k >= (name+1)*maxTry {
		s.stats.exhausted++
		panic(giveUp{})
	}
	d.parents = a.heritage(live)
	d.sid = uint8(a.fresh(session, 0, keys))
	s.obj.tryOf[d.sid], s.obj.parents[d.sid] = uint8(d.k), d.parents
	if s.mutant(parentNotPinned) {
		s.obj.parents[d.sid] = 0
	}
	switch {
	case s.mutant(noSession):
	case s.mutant(sessionUnconfirmed):
		a.hope(session, int(d.sid), 0)
	default:
		a.create(session, int(d.sid))
	}
	d.avoid = early.all
	return pts, true
}

// consult is W3.
func (a *actor) consult(d *draft) {
	s := a.s
	if !s.mutant(parentNotReread) {
		d.parents &^= a.readDead()
	}
	if !s.mutant(condemnedBeforeSession) {
		d.avoid = a.readSet(condemn).all
	}
	if s.mutant(dedupCondemned) {
		d.avoid = 0
	}
}

// heritage draws the parents of a session.
func (a *actor) heritage(live uint64) (parents uint64) {
	if a.order != nil {
		return a.order.parents & live
	}
	few := a.rng.n(3) // none, one, two
	if a.s.cfg.heirs {
		few = 2
	}
	for range few {
		if p := a.rng.pick(live); p >= 0 {
			parents |= 1 << p
		}
	}
	return parents
}

// plan is W4: what the point is made of, and what of it must be stored.
func (a *actor) plan(d *draft, pts records) {
	var want uint32
	trees := ^uint32(0)
	if a.order != nil {
		want = a.order.want
	} else {
		for range 1 + a.rng.n(3) {
			want |= 1 << a.rng.n(a.s.cfg.chunks)
		}
		if !a.s.cfg.heirs {
			trees = uint32(a.rng.next())
		}
	}
	each(d.parents, func(p int) { // whole trees, unseen
		d.reuse |= a.s.obj.recChunks[pts.val[p]] & trees
	})
	d.need = want &^ d.reuse
}

// store is W5: the chunks that no usable pack has go into one or two new packs,
// which an index segment names once they are there.
func (a *actor) store(d *draft) {
	s := a.s
	todo := d.need &^ s.chunksOf(d.known.all&^d.avoid)
	for todo != 0 {
		part := todo
		if bits.OnesCount32(todo) > 1 && a.coin(40) {
			part = todo & -todo
		}
		a.storePack(part, d.sid)
		todo &^= part
	}
}

// storePack puts a pack and its segment.
func (a *actor) storePack(chunks uint32, sid uint8) {
	s := a.s
	p := a.fresh(pack, 0, maxPacks)
	s.obj.packChunks[p], s.obj.packSession[p] = chunks, sid
	if s.mutant(segmentFirst) {
		a.create(index, a.newSet(index, 0, 1<<p))
	}
	if s.mutant(packUnconfirmed) {
		a.hope(pack, p, 0)
	} else {
		a.create(pack, p)
	}
	switch {
	case s.mutant(segmentFirst):
	case s.mutant(segmentUnconfirmed):
		a.hope(index, a.newSet(index, 0, 1<<p), 0)
	default:
		a.create(index, a.newSet(index, 0, 1<<p))
	}
}

// commit is W6 and W7. It returns whether the session is resolved; a commit that
// nobody answered for gives up, which is ErrAmbiguous.
func (a *actor) commit(d *draft) bool {
	s := a.s
	for range tries {
		v := d.sid
		if a.put(point, d.k, d.sid) == exists {
			if s.mutant(noReadBack) {
				s.tell(d.sid)
				return true
			}
			var ok bool
			if v, ok = a.get(point, d.k); !ok {
				continue // folded between the two calls: W7 will say so
			}
		}
		if v == fence {
			s.stats.fences++
			s.say(a, "ErrFenced, session %d", d.sid)
			s.tell(d.sid)
			return true
		}
		if !s.mutant(commitUnchecked) && a.readDead()&(1<<d.k) != 0 {
			s.say(a, "ErrFenced by closed, session %d", d.sid)
			s.tell(d.sid)
			return true
		}
		s.say(a, "success, attempt %d, session %d", d.k, v)
		s.ack(d.k, v)
		return true
	}
	panic(giveUp{})
}
