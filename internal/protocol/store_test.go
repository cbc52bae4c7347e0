// SPDX-License-Identifier: Apache-2.0

package protocol

import "math/bits"

// kind is a prefix of the key space.
type kind uint8

const (
	session kind = iota
	pack
	index
	point
	forget
	hold
	closed
	condemn
	wait
	kinds
)

var kindNames = [kinds]string{"session", "pack", "index", "point", "forget", "hold", "closed", "condemn", "wait"}

// A key is a number below keys; its order is the order of a listing. Packs and
// attempts are numbers below 64, so that sets of them are words.
const (
	keys     = 256
	maxPacks = 64
	maxTry   = 8   // attempts of one name: attempt = name*maxTry + n
	fence    = 255 // the value of a commit key that a collector fenced
	leaves   = 96  // keys of level 0 of a merged kind; each level above has levelKeys
	perLevel = 8
	levels   = 1 + (keys-leaves)/perLevel
)

// levelRange is the range of keys of a level of a merged kind.
func levelRange(level int) (lo, hi int) {
	if level == 0 {
		return 0, leaves
	}
	lo = leaves + (level-1)*perLevel
	return lo, lo + perLevel
}

func levelOf(key uint8) int {
	if int(key) < leaves {
		return 0
	}
	return 1 + (int(key)-leaves)/perLevel
}

// keyset is a set of keys of one kind.
type keyset [keys / 64]uint64

func (s *keyset) has(k uint8) bool { return s[k>>6]&(1<<(k&63)) != 0 }
func (s *keyset) add(k uint8)      { s[k>>6] |= 1 << (k & 63) }
func (s *keyset) del(k uint8)      { s[k>>6] &^= 1 << (k & 63) }

func (s *keyset) len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

func (s *keyset) union(o *keyset) {
	for i := range s {
		s[i] |= o[i]
	}
}

// next returns the first key at or after k, or keys.
func (s *keyset) next(k int) int {
	for k < keys {
		if w := s[k>>6] >> (k & 63); w != 0 {
			return k + bits.TrailingZeros64(w)
		}
		k = (k | 63) + 1
	}
	return keys
}

// between returns the members in [lo, hi).
func (s *keyset) between(lo, hi int) (out keyset) {
	for k := s.next(lo); k < hi; k = s.next(k + 1) {
		out.add(uint8(k))
	}
	return out
}

// each calls f with the members of a word in order.
func each(w uint64, f func(i int)) {
	for ; w != 0; w &= w - 1 {
		f(bits.TrailingZeros64(w))
	}
}

type verb uint8

const (
	list verb = iota
	get
	put       // if absent
	overwrite // what the protocol never does
	del
)

var verbNames = [...]string{"list", "get", "put", "overwrite", "del"}

// op is one call to the store.
type op struct {
	verb   verb
	kind   kind
	key    uint8
	val    uint8 // of a point: the session whose record it is, or fence; of a wait: its list
	lo, hi int   // of a page of a listing
}

func (o op) mutates() bool { return o.verb >= put }

type status uint8

const (
	done status = iota
	exists
	missing
	failed // nobody knows whether it was applied
)

var statusNames = [...]string{"ok", "exists", "missing", "failed"}

type reply struct {
	status status
	val    uint8
	keys   keyset
}

// objects is what never changes about an object once somebody made up its name:
// names are never reused, so the store holds only which of them exist. The
// commit key is the exception, as is the list of those that a marker waits
// for: they have a value in the store.
type objects struct {
	used        [kinds]keyset
	tryOf       [keys]uint8  // of a session: its attempt
	parents     [keys]uint64 // of a session: the attempts that it pins
	recChunks   [keys]uint32 // of a session: the chunks of its record
	packChunks  [maxPacks]uint32
	packSession [maxPacks]uint8
	holdOf      [keys]uint8
	content     [kinds][keys]uint64 // of a set: packs or attempts
	supersedes  [kinds][keys]keyset
	waitFor     []keyset // lists of sessions, by the value of a wait
}

// store is the state of the bucket.
type store struct {
	there [kinds]keyset
	value [kinds][keys]uint8 // of points and waits
}

// apply performs o, atomically.
func (st *store) apply(o op) (r reply) {
	has := st.there[o.kind].has(o.key)
	switch o.verb {
	case list:
		r.keys = st.there[o.kind].between(o.lo, o.hi)
	case get:
		if !has {
			r.status = missing
		} else {
			r.val = st.value[o.kind][o.key]
		}
	case put, overwrite:
		if has && o.verb == put {
			r.status = exists
			return r
		}
		st.there[o.kind].add(o.key)
		st.value[o.kind][o.key] = o.val
	case del:
		st.there[o.kind].del(o.key)
	}
	return r
}

// unite is the union of the contents of the sets of a kind that exist.
func (s *sim) unite(k kind) (out uint64) {
	th := &s.st.there[k]
	for i := th.next(0); i < keys; i = th.next(i + 1) {
		out |= s.obj.content[k][i]
	}
	return out
}

// chunksOf is the union of what the packs hold.
func (s *sim) chunksOf(packs uint64) (c uint32) {
	for ; packs != 0; packs &= packs - 1 {
		c |= s.obj.packChunks[bits.TrailingZeros64(packs)]
	}
	return c
}
