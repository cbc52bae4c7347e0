// SPDX-License-Identifier: Apache-2.0

package ondisk

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
)

// Sets of attempts and of packs only ever grow. They are kept as unions of
// objects that are never changed: a merged object repeats the content of those
// of lower levels, which may then go. So a reader takes the union of all that
// there is, and an object whose content others of higher levels have is
// superfluous.

// MaxSet bounds the plaintext of one object of a set. Larger sets take several.
const MaxSet = 4 << 20

// setVersion is the first byte of an encoded set.
const setVersion = 1

func (a Attempt) compare(b Attempt) int {
	return cmp.Or(bytes.Compare(a.Name[:], b.Name[:]), cmp.Compare(a.N, b.N))
}

// AttemptSet is an immutable set of attempts, 20 bytes each. Nil is empty.
type AttemptSet struct{ sorted []Attempt }

// NewAttemptSet returns the set of these attempts.
func NewAttemptSet(attempts ...Attempt) *AttemptSet {
	s := slices.Clone(attempts)
	slices.SortFunc(s, Attempt.compare)
	return &AttemptSet{sorted: slices.Compact(s)}
}

// UnionAttempts returns the union of sets.
func UnionAttempts(sets ...*AttemptSet) *AttemptSet {
	n := 0
	for _, s := range sets {
		n += s.Len()
	}
	u := &AttemptSet{sorted: make([]Attempt, 0, n)}
	for _, s := range sets {
		u.sorted = slices.AppendSeq(u.sorted, s.All())
	}
	slices.SortFunc(u.sorted, Attempt.compare)
	u.sorted = slices.Compact(u.sorted)
	return u
}

// Len returns the number of attempts.
func (s *AttemptSet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.sorted)
}

// All iterates over the attempts by name and number.
func (s *AttemptSet) All() iter.Seq[Attempt] {
	return func(yield func(Attempt) bool) {
		for i := range s.Len() {
			if !yield(s.sorted[i]) {
				return
			}
		}
	}
}

// Has reports whether the attempt is in the set.
func (s *AttemptSet) Has(a Attempt) bool {
	if s == nil {
		return false
	}
	_, ok := slices.BinarySearchFunc(s.sorted, a, Attempt.compare)
	return ok
}

// Max returns the highest attempt of the name, or false if there is none.
func (s *AttemptSet) Max(name [16]byte) (uint32, bool) {
	if s == nil {
		return 0, false
	}
	last := Attempt{Name: name, N: math.MaxUint32}
	i, ok := slices.BinarySearchFunc(s.sorted, last, Attempt.compare)
	if ok {
		return last.N, true
	}
	if i == 0 || s.sorted[i-1].Name != name {
		return 0, false
	}
	return s.sorted[i-1].N, true
}

// Covers reports whether all of other is in the set.
func (s *AttemptSet) Covers(other *AttemptSet) bool {
	for a := range other.All() {
		if !s.Has(a) {
			return false
		}
	}
	return true
}

// attemptSize is the longest encoding of an attempt.
const attemptSize = 16 + 5

// Encode returns the plaintexts of the objects that hold the set, in order:
// none if it is empty.
func (s *AttemptSet) Encode() [][]byte {
	if s == nil {
		return nil
	}
	var out [][]byte
	for part := range slices.Chunk(s.sorted, (MaxSet-16)/attemptSize) {
		b := AppendUvarint([]byte{setVersion}, uint64(len(part)))
		for _, a := range part {
			b = append(b, a.Name[:]...)
			b = AppendUvarint(b, uint64(a.N))
		}
		out = append(out, b)
	}
	return out
}

// DecodeAttemptSet decodes one object of a set.
func DecodeAttemptSet(b []byte) (*AttemptSet, error) {
	d, n := newSetDecoder(b)
	s := &AttemptSet{sorted: make([]Attempt, 0, min(n, d.Len()/17))}
	for range n {
		var a Attempt
		copy(a.Name[:], d.Fixed(len(a.Name)))
		a.N = uint32(d.Uvarint(math.MaxUint32)) // bounded
		if i := len(s.sorted); i > 0 && a.compare(s.sorted[i-1]) <= 0 {
			d.fail("attempts out of order")
		}
		if d.err != nil {
			break
		}
		s.sorted = append(s.sorted, a)
	}
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("closed set: %w", err)
	}
	return s, nil
}

// newSetDecoder checks the size and version and reads the number of elements.
func newSetDecoder(b []byte) (*Decoder, int) {
	d := NewDecoder(b)
	if len(b) > MaxSet {
		d.fail("set exceeds its limit")
	}
	if d.Byte() != setVersion {
		d.fail("version of a set")
	}
	n := int(d.Uvarint(MaxSet)) // bounded
	if n == 0 {
		d.fail("empty set") // nobody stores one
	}
	return d, n
}
