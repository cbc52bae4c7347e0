// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"iter"
)

// actor is one process. Its program is straight code in a coroutine that stops
// before each call to the store, so that the scheduler decides when, whether and
// how often the call takes effect.
type actor struct {
	s     *sim
	id    int
	role  *role
	rng   rng
	left  int // runs of the role's program still to do, restarts included
	prio  int
	stall int // steps for which it does not run
	order *order

	ask   op
	ready bool
	reply reply
	yield func(op) bool
	next  func() (op, bool)
	stop  func()
}

// role is a program, and how often a process runs it.
type role struct {
	name string
	run  func(a *actor)
}

// The two ways out of a program before its end. They are panics for the reason
// that a crash is one: nothing of the program below may run on.
type (
	killed struct{} // the process is dead
	giveUp struct{} // this run failed: the store did not answer, or names ran out
)

// order fixes what an actor of a scripted schedule would otherwise draw.
type order struct {
	name    int    // of the point to write
	parents uint64 // attempts whose trees are reused as a whole
	want    uint32 // chunks
	victims uint64 // packs to condemn, or attempts to forget or hold
	cut     int    // where the second page of a listing begins
	cutKind kind
	calls   int // of a holder: how long it holds
}

// coin is a whim, which a scripted actor does not have.
func (a *actor) coin(percent int) bool { return a.order == nil && a.rng.chance(percent) }

// start begins the program of a new process.
func (s *sim) start(r *role, runs int, o *order) *actor {
	a := &actor{s: s, id: len(s.actors), role: r, left: runs, order: o}
	a.rng = rng(mix(s.seed*64 + uint64(a.id) + 1))
	a.prio = 1000 + s.rng.n(1000)
	s.actors = append(s.actors, a)
	a.next, a.stop = iter.Pull(func(yield func(op) bool) {
		a.yield = yield
		defer func() {
			if e := recover(); e != nil {
				if _, ok := e.(killed); !ok {
					panic(e)
				}
			}
		}()
		for a.left > 0 {
			a.left--
			a.attempt(func() { r.run(a) })
		}
	})
	a.step(reply{})
	return a
}

// attempt runs f and says whether it came to its end.
func (a *actor) attempt(f func()) (ok bool) {
	defer func() {
		if e := recover(); e != nil {
			if _, yes := e.(giveUp); !yes {
				panic(e)
			}
			a.s.stats.gaveUp++
			ok = false
		}
	}()
	f()
	return true
}

// step lets the program run up to its next call.
func (a *actor) step(r reply) {
	a.reply = r
	a.ask, a.ready = a.next()
}

// do is one call to the store.
func (a *actor) do(o op) reply {
	if !a.yield(o) {
		panic(killed{})
	}
	return a.reply
}

const tries = 3

// list lists keys in [lo, hi) in one to three pages, each at its own time.
func (a *actor) listRange(k kind, lo, hi int) (out keyset) {
	for lo < hi {
		end := hi
		switch o := a.order; {
		case o != nil && o.cutKind == k && lo < o.cut:
			end = o.cut
		case a.s.cfg.paging > 0 && a.coin(a.s.cfg.paging):
			end = lo + 1 + a.rng.n(hi-lo)
		}
		r := a.read(op{verb: list, kind: k, lo: lo, hi: end})
		out.union(&r.keys)
		lo = end
	}
	return out
}

func (a *actor) list(k kind) keyset {
	hi := keys
	if k == pack || k == point || k == forget {
		hi = maxPacks
	}
	return a.listRange(k, 0, hi)
}

func (a *actor) read(o op) reply {
	for range tries {
		if r := a.do(o); r.status != failed {
			return r
		}
	}
	panic(giveUp{})
}

// get returns the value of a key and whether it exists.
func (a *actor) get(k kind, key int) (uint8, bool) {
	r := a.read(op{verb: get, kind: k, key: uint8(key)})
	return r.val, r.status == done
}

// put creates an object. It returns done or exists, of which the latter may mean
// an earlier try of its own, or gives up.
func (a *actor) put(k kind, key int, val uint8) status {
	o := op{verb: put, kind: k, key: uint8(key), val: val}
	if k == point && a.s.mutant(commitOverwrites) && val != fence {
		o.verb = overwrite
	}
	for range tries {
		if r := a.do(o); r.status != failed {
			return r.status
		}
	}
	panic(giveUp{})
}

// create puts an object under a name that is a's alone: whoever finds that it
// exists finds an earlier try.
func (a *actor) create(k kind, key int) { a.put(k, key, 0) }

// hope puts an object and takes any answer for success.
func (a *actor) hope(k kind, key int, val uint8) {
	a.do(op{verb: put, kind: k, key: uint8(key), val: val})
}

// delete deletes an object, or leaves it if the store does not answer.
func (a *actor) delete(k kind, key int) bool {
	for range tries {
		if r := a.do(op{verb: del, kind: k, key: uint8(key)}); r.status != failed {
			return true
		}
	}
	return false
}

// fresh makes up a name in [lo, hi) that nobody ever used.
func (a *actor) fresh(k kind, lo, hi int) int {
	used := &a.s.obj.used[k]
	first := lo + a.rng.n(hi-lo)
	for i := range hi - lo {
		key := lo + (first-lo+i)%(hi-lo)
		if !used.has(uint8(key)) {
			used.add(uint8(key))
			return key
		}
	}
	a.s.stats.exhausted++
	panic(giveUp{})
}

// newSet makes up a set of a level.
func (a *actor) newSet(k kind, level int, content uint64) int {
	lo, hi := levelRange(level)
	key := a.fresh(k, lo, hi)
	a.s.obj.content[k][key] = content
	return key
}

// set is what a reader knows of a merged kind: the union, and the objects.
type set struct {
	all     uint64
	objects keyset
}

// readSet reads all sets of a kind. One that a listing names and that is gone has
// a successor: list again.
func (a *actor) readSet(k kind) set {
again:
	for range 8 {
		r := set{objects: a.list(k)}
		for key := r.objects.next(0); key < keys; key = r.objects.next(key + 1) {
			if _, ok := a.get(k, key); !ok {
				if !a.s.mutant(goneIsEmpty) {
					continue again
				}
				continue
			}
			r.all |= a.s.obj.content[k][key]
		}
		return r
	}
	panic(giveUp{})
}

// records is what a reader knows of the commit keys.
type records struct {
	present uint64
	val     [maxPacks]uint8
}

func (p *records) note(k int, v uint8) {
	p.present |= 1 << k
	p.val[k] = v
}

// live returns the attempts with a record that are not dead.
func (p *records) live(dead uint64) (out uint64) {
	each(p.present&^dead, func(k int) {
		if p.val[k] != fence {
			out |= 1 << k
		}
	})
	return out
}

func (a *actor) readPoints() (p records) {
	keys := a.list(point)
	each(keys[0], func(k int) {
		if v, ok := a.get(point, k); ok {
			p.note(k, v)
		}
	})
	return p
}

// readDead reads which attempts are dead: the closed ones.
func (a *actor) readDead() uint64 {
	var marked uint64
	if a.s.mutant(holdRevives) {
		f := a.list(forget)
		h := a.list(hold)
		marked = f[0] &^ a.s.heldNow(&h)
	}
	return marked | a.readSet(closed).all
}

func (o op) String() string {
	switch {
	case o.verb == list:
		return fmt.Sprintf("list %s [%d,%d)", kindNames[o.kind], o.lo, o.hi)
	case o.kind == point:
		return fmt.Sprintf("%s point/%d.%d = %d", verbNames[o.verb], o.key/maxTry, o.key%maxTry, o.val)
	}
	return fmt.Sprintf("%s %s/%d", verbNames[o.verb], kindNames[o.kind], o.key)
}
