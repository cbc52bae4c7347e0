// SPDX-License-Identifier: Apache-2.0

package protocol

var collectorRole = role{"collector", (*actor).collect}

// collect is C0 to C9.
func (a *actor) collect() {
	s := a.s
	a.closeForgotten()
	ps := a.list(pack)
	early := a.list(session)
	before := a.readSet(condemn)
	v := a.mark()
	if v.damaged {
		return
	}
	v.packs &= ps[0]
	cand := a.candidates(&v, before.all, &early)
	if cand != 0 {
		key := a.newSet(condemn, 0, cand)
		if s.mutant(markerUnconfirmed) {
			a.hope(condemn, key, 0)
		} else {
			a.create(condemn, key)
		}
		before.objects.add(uint8(key))
	}
	sess := early
	if !s.mutant(sessionsReadBeforeMarker) {
		sess = a.list(session)
	}
	ripe := a.resolve(&before, &sess)
	if !s.mutant(noSecondMark) {
		v = a.mark()
	}
	if s.mutant(foldFirst) {
		a.fold(&v)
	}
	v, ok := a.rescue(v)
	if !ok {
		return
	}
	a.sweep(&v, ripe)
	a.fold(&v)
	a.tidy(ripe)
}

// closeForgotten is C0: who is forgotten and held by nobody is dead.
func (a *actor) closeForgotten() {
	if a.s.mutant(holdRevives) {
		return
	}
	var held uint64
	if a.s.mutant(holdReadFirst) {
		held = a.readHeld()
	}
	f := a.list(forget)
	if f[0] == 0 {
		return
	}
	if !a.s.mutant(holdReadFirst) {
		held = a.readHeld()
	}
	if a.s.mutant(holdIgnored) {
		held = 0
	}
	if k := f[0] &^ held &^ a.readSet(closed).all; k != 0 {
		a.create(closed, a.newSet(closed, 0, k))
	}
}

// candidates is C3: packs that nobody needs, as far as this view knows, and some
// that hold little that is needed.
func (a *actor) candidates(v *view, before uint64, early *keyset) (cand uint64) {
	s := a.s
	if a.order != nil {
		return a.order.victims & v.packs &^ before
	}
	need := v.live | v.pins
	each(v.packs&^v.bad&^before, func(p int) {
		if s.cfg.thrift && early.has(s.obj.packSession[p]) {
			return
		}
		var hard uint32
		if v.named&(1<<p) != 0 {
			hard = s.obj.packChunks[p] & need &^ s.chunksOf(v.good()&^cand&^(1<<p))
		}
		some := hard != s.obj.packChunks[p] && a.rng.chance(s.cfg.repack)
		// To condemn a pack is never wrong, only wasteful.
		if hard == 0 || some || a.rng.chance(s.cfg.wild) {
			cand |= 1 << p
		}
	})
	return cand
}

// resolve is C5: each session that is there after the markers is committed,
// closed or fenced, unless it is young. It returns the packs that may be deleted:
// those of the markers for which nobody is left who may not have seen them.
func (a *actor) resolve(markers *set, sess *keyset) (ripe uint64) {
	s := a.s
	if s.mutant(noResolution) {
		for key := markers.objects.next(0); key < keys; key = markers.objects.next(key + 1) {
			ripe |= s.obj.content[condemn][key]
		}
		return ripe
	}
	dead := a.readDead()
	var open keyset
	for sid := sess.next(0); sid < keys; sid = sess.next(sid + 1) {
		if !a.resolved(sid, dead) {
			open.add(uint8(sid))
		}
	}
	for key := markers.objects.next(0); key < keys; key = markers.objects.next(key + 1) {
		if a.ripe(key, &open, dead) {
			ripe |= s.obj.content[condemn][key]
		}
	}
	if s.mutant(markersReadAfterSessions) {
		ripe |= a.readSet(condemn).all
	}
	return ripe
}

// resolved resolves a session if its policy lets it, and returns whether it is.
func (a *actor) resolved(sid int, dead uint64) bool {
	s := a.s
	if _, ok := a.get(session, sid); !ok {
		return true
	}
	k := int(s.obj.tryOf[sid])
	if s.mutant(clockFence) {
		a.delete(session, sid)
		return true
	}
	if _, ok := a.get(point, k); !ok && dead&(1<<k) == 0 {
		switch {
		case !s.cfg.fencing && a.rng.chance(s.cfg.young):
			return false
		case s.mutant(fenceUnconfirmed):
			a.hope(point, k, fence)
		default:
			a.put(point, k, fence)
		}
	}
	a.delete(session, sid)
	return true
}

// ripe returns whether all sessions are resolved that may not have seen a marker.
// A marker that has no list of them gets one.
func (a *actor) ripe(key int, open *keyset, dead uint64) bool {
	s := a.s
	if levelOf(uint8(key)) > 0 {
		return true // only ripe sets are merged
	}
	if open.len() == 0 {
		return true
	}
	list, ok := a.get(wait, key)
	if !ok {
		if s.mutant(waitIgnored) {
			return true
		}
		s.obj.waitFor = append(s.obj.waitFor, *open)
		a.put(wait, key, uint8(len(s.obj.waitFor)-1)) // of two lists either will do
		return false
	}
	u := &s.obj.waitFor[list]
	for sid := u.next(0); sid < keys; sid = u.next(sid + 1) {
		if open.has(uint8(sid)) {
			return false
		}
		if _, ok := a.get(session, sid); ok && !a.resolved(sid, dead) {
			return false
		}
	}
	return true
}

// sweep is C7.
func (a *actor) sweep(v *view, ripe uint64) {
	s := a.s
	need := v.live | v.pins
	good := s.chunksOf(v.good())
	each(ripe&v.packs, func(p int) {
		if v.named&(1<<p) != 0 && s.obj.packChunks[p]&need&^good != 0 {
			return
		}
		a.delete(pack, p)
	})
}

// rescue is C6: what only condemned packs hold is copied out of them, and then
// everything is read again.
func (a *actor) rescue(v view) (view, bool) {
	s := a.s
	for range 4 {
		if v.damaged {
			return v, false
		}
		from := v.packs & v.named & v.bad
		save := (v.live | v.pins) & s.chunksOf(from) &^ s.chunksOf(v.good())
		if save == 0 {
			return v, true
		}
		if s.mutant(uncondemn) {
			a.uncondemn(save, from)
		} else if a.copyable(save, from) {
			s.stats.rescues++
			p := a.copyOut(save)
			if s.mutant(rescueTrusted) {
				v.packs |= 1 << p
				v.named |= 1 << p
				return v, true
			}
		}
		v = a.mark()
	}
	return v, true // sweep keeps what it must
}

// copyable reads the sources of a rescue.
func (a *actor) copyable(save uint32, from uint64) bool {
	ok := true
	each(from, func(p int) {
		if a.s.obj.packChunks[p]&save != 0 && ok {
			_, ok = a.get(pack, p)
		}
	})
	return ok
}

func (a *actor) copyOut(save uint32) int {
	s := a.s
	p := a.fresh(pack, 0, maxPacks)
	s.obj.packChunks[p], s.obj.packSession[p] = save, fence
	a.create(pack, p)
	a.create(index, a.newSet(index, 0, 1<<p))
	return p
}
