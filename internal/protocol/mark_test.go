// SPDX-License-Identifier: Apache-2.0

package protocol

// view is what a collector knows when it has marked.
type view struct {
	dead    uint64
	pts     records
	pinned  uint64 // attempts
	live    uint32 // chunks of live points
	pins    uint32 // chunks of pinned points, of which some may be gone
	named   uint64 // packs in the index
	bad     uint64 // condemned packs
	packs   uint64 // packs that exist
	damaged bool   // or nothing is known
}

// good is the packs whose copies count.
func (v *view) good() uint64 { return v.packs & v.named &^ v.bad }

// mark reads the repository so that what it takes for dead is dead: first who is
// dead, then the sessions that pin, then the points, and then again who is dead.
func (a *actor) mark() view {
	var v view
	for range 8 {
		v = view{}
		if !a.roots(&v) {
			a.s.stats.restarts++
			continue
		}
		v.named = a.readSet(index).all
		if !a.s.mutant(othersMarkersUnread) {
			v.bad = a.readSet(condemn).all
		}
		p := a.list(pack)
		v.packs = p[0]
		if v.live&^a.s.chunksOf(v.packs&v.named) == 0 {
			return v
		}
		if a.quiet(&v) {
			a.s.stats.alarms++
			a.s.violate("P7: an alarm of damage without damage")
			break
		}
		a.s.stats.restarts++
	}
	v.damaged = true // or too much happens: another run will do
	return v
}

// quiet returns whether nothing happened since the mark began that explains why a
// chunk is not where the index said: that it was moved, and a segment names the
// new place, or that its point died.
func (a *actor) quiet(v *view) bool {
	if a.s.mutant(alarmAtOnce) {
		return true
	}
	return a.readSet(index).all&^v.named == 0 && a.readDead() == v.dead
}

// roots reads what is live. It returns false if a point died meanwhile.
func (a *actor) roots(v *view) bool {
	s := a.s
	last := s.mutant(closedReadLast)
	if !last {
		v.dead = a.readDead()
	}
	pins := keyset{}
	if !s.mutant(pinsAfterPoints) {
		pins = a.readSessions()
	}
	v.pts = a.readPoints()
	if s.mutant(pinsAfterPoints) {
		pins = a.readSessions()
	}
	if !s.mutant(pinnerNotReread) {
		for sid := pins.next(0); sid < keys; sid = pins.next(sid + 1) {
			if k := int(s.obj.tryOf[sid]); v.pts.present&(1<<k) == 0 {
				if x, ok := a.get(point, k); ok { // it has committed since
					v.pts.note(k, x)
				}
			}
		}
	}
	switch {
	case last:
		v.dead = a.readDead()
	case s.mutant(closedReadOnce):
	default:
		if a.readDead() != v.dead {
			return false
		}
	}
	each(v.pts.live(v.dead), func(k int) { v.live |= s.obj.recChunks[v.pts.val[k]] })
	if s.mutant(pinsIgnored) {
		return true
	}
	for sid := pins.next(0); sid < keys; sid = pins.next(sid + 1) {
		if k := s.obj.tryOf[sid]; (v.pts.present|v.dead)&(1<<k) != 0 {
			continue // resolved
		}
		v.pinned |= s.obj.parents[sid]
	}
	each(v.pinned&v.pts.present, func(k int) {
		if x := v.pts.val[k]; x != fence {
			v.pins |= s.obj.recChunks[x]
		}
	})
	return true
}

// readSessions lists the sessions and reads each record. One that is gone was
// resolved.
func (a *actor) readSessions() (out keyset) {
	all := a.list(session)
	for sid := all.next(0); sid < keys; sid = all.next(sid + 1) {
		if _, ok := a.get(session, sid); ok {
			out.add(uint8(sid))
		}
	}
	return out
}
