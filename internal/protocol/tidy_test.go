// SPDX-License-Identifier: Apache-2.0

package protocol

var compactorRole = role{"compactor", func(a *actor) { a.compact(index, false) }}

// fold is C8: fences join the dead, and what is left of the dead goes, unless a
// session pins it.
func (a *actor) fold(v *view) {
	s := a.s
	var fences uint64
	each(v.pts.present&^v.dead, func(k int) {
		if v.pts.val[k] == fence {
			fences |= 1 << k
		}
	})
	if s.mutant(holdRevives) {
		fences |= v.dead &^ a.readSet(closed).all
	}
	if s.mutant(deleteBeforeClosed) {
		each(fences, func(k int) { a.delete(point, k) })
	}
	if fences != 0 && !s.mutant(fenceNotClosed) {
		a.create(closed, a.newSet(closed, 0, fences))
	}
	dead := v.dead | fences
	if !s.mutant(pinnedFolded) {
		dead &^= v.pinned
	}
	if s.mutant(forgetBeforePoint) {
		f := a.list(forget)
		each(f[0]&dead, func(k int) { a.delete(forget, k) })
	}
	each(v.pts.present&dead, func(k int) { a.delete(point, k) })
	f := a.list(forget)
	each(f[0]&dead, func(k int) { a.delete(forget, k) })
	h := a.list(hold)
	for x := h.next(0); x < keys; x = h.next(x + 1) {
		if dead&(1<<s.obj.holdOf[x]) != 0 {
			a.delete(hold, x)
		}
	}
}

// tidy is C9.
func (a *actor) tidy(ripe uint64) {
	a.compact(index, true)
	a.compact(closed, true)
	a.compactCondemned(ripe)
}

// compact merges the sets of a kind into one of a higher level, which is there
// before they go. Writers only put.
func (a *actor) compact(k kind, may bool) {
	s := a.s
	var old uint64
	if s.mutant(packsReadBeforeIndex) && k == index {
		p := a.list(pack)
		old = p[0]
	}
	sets := a.readSet(k)
	a.merge(k, sets.objects, may, func(all uint64) uint64 {
		if k != index {
			return all
		}
		if s.mutant(packsReadBeforeIndex) {
			return all & old
		}
		p := a.list(pack)
		return all & p[0]
	})
}

// compactCondemned merges the markers that wait for nobody.
func (a *actor) compactCondemned(ripe uint64) {
	s := a.s
	waits := a.list(wait) // before the markers: each of these had one
	sets := a.readSet(condemn)
	var can keyset
	for key := sets.objects.next(0); key < keys; key = sets.objects.next(key + 1) {
		if s.obj.content[condemn][key]&^ripe == 0 || s.mutant(unripeMerged) {
			can.add(uint8(key))
		}
	}
	a.merge(condemn, can, true, func(all uint64) uint64 {
		if s.mutant(condemnedPruned) {
			p := a.list(pack)
			return all & p[0]
		}
		return all
	})
	for key := waits.next(0); key < keys; key = waits.next(key + 1) {
		// Its marker is ripe, or merged and gone, for only ripe ones are.
		if can.has(uint8(key)) || !sets.objects.has(uint8(key)) {
			a.delete(wait, key)
		}
	}
}

// merge deletes what a set says it superseded, and merges the rest.
func (a *actor) merge(k kind, objects keyset, may bool, keep func(uint64) uint64) {
	s := a.s
	var old keyset
	for key := objects.next(0); key < keys; key = objects.next(key + 1) {
		old.union(&s.obj.supersedes[k][key])
	}
	var rest keyset
	var all uint64
	level := 0
	for key := objects.next(0); key < keys; key = objects.next(key + 1) {
		if old.has(uint8(key)) {
			if may {
				a.delete(k, key)
			}
			continue
		}
		rest.add(uint8(key))
		all |= s.obj.content[k][key]
		level = max(level, levelOf(uint8(key)))
	}
	if rest.len() < 2 || level+1 >= levels {
		return
	}
	level++
	if s.mutant(levelNotHigher) {
		level = 0
	}
	merged := a.newSet(k, level, keep(all))
	s.obj.supersedes[k][merged] = rest
	s.stats.merges++
	drop := func() {
		for key := rest.next(0); key < keys && may; key = rest.next(key + 1) {
			a.delete(k, key)
		}
	}
	if s.mutant(mergedPutLast) {
		drop()
		a.create(k, merged)
		return
	}
	if s.mutant(mergedUnconfirmed) {
		a.hope(k, merged, 0)
	} else {
		a.create(k, merged)
	}
	drop()
}

// uncondemn is what the protocol never does: it takes packs back.
func (a *actor) uncondemn(save uint32, from uint64) {
	s := a.s
	var back uint64
	each(from, func(p int) {
		if s.obj.packChunks[p]&save != 0 {
			back |= 1 << p
		}
	})
	sets := a.readSet(condemn)
	a.create(condemn, a.newSet(condemn, 0, sets.all&^back))
	for key := sets.objects.next(0); key < keys; key = sets.objects.next(key + 1) {
		a.delete(condemn, key)
	}
}
