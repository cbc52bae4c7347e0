// SPDX-License-Identifier: Apache-2.0

package index

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// filter is a binary fuse filter with 8-bit fingerprints: it knows every key
// that it was made of, and takes one of 256 others for one of them. It is that
// of T. M. Graf and D. Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor
// Filters", ACM Journal of Experimental Algorithmics 27 (2022), with three
// places for a key.
//
// The zero filter takes every key for one of its own.
type filter struct {
	seed   uint64
	shift  uint8  // log2 of the length of a segment
	count  uint32 // segments in which a key's first place may be
	prints []byte
}

// arity is the number of places of a key, in consecutive segments.
const arity = 3

// maxShift bounds segments; the paper found no use for larger ones.
const maxShift = 18

func newFilter(keys []uint64) filter {
	n := float64(max(len(keys), 2))
	var f filter
	f.shift = uint8(min(maxShift, math.Floor(math.Log(n)/math.Log(3.33)+2.25))) // small
	factor := max(1.125, 0.875+0.25*math.Log(1e6)/math.Log(n))
	segments := math.Ceil(n * factor / float64(int(1)<<f.shift))
	f.count = uint32(max(1, segments-(arity-1))) // below the number of keys
	b := newFuseBuilder(&f, len(keys))
	for try := range 64 {
		f.seed = mix(uint64(try) + 1) // no secret: the keys are hashes that nobody can choose
		if b.peel(keys) {
			b.assign()
			return f
		}
		if try == 0 { // equal keys cannot be told apart
			keys = slices.Clone(keys)
			slices.Sort(keys)
			keys = slices.Compact(keys)
		}
	}
	return filter{}
}

func mix(x uint64) uint64 { // the finalizer of MurmurHash3
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// places returns where the fingerprint of a mixed key is spread over.
func (f *filter) places(h uint64) [arity]uint32 {
	hi, _ := bits.Mul64(h, uint64(f.count)<<f.shift)
	mask := uint32(1)<<f.shift - 1
	p0 := uint32(hi) // below count << shift
	p1 := p0 + 1<<f.shift
	p2 := p1 + 1<<f.shift
	return [arity]uint32{p0, p1 ^ uint32(h>>18)&mask, p2 ^ uint32(h)&mask}
}

func fingerprint(h uint64) byte { return byte(h ^ h>>32) }

// has reports whether the key may be one of the filter's.
func (f *filter) has(key uint64) bool {
	if len(f.prints) == 0 {
		return true
	}
	h := mix(key + f.seed)
	p := f.places(h)
	return fingerprint(h) == f.prints[p[0]]^f.prints[p[1]]^f.prints[p[2]]
}

// fuseBuilder takes keys away one after the other, each time one that is alone
// at one of its places, and then sets these places in the opposite order.
type fuseBuilder struct {
	f     *filter
	count []uint8  // keys at a place
	xor   []uint64 // of their hashes
	alone []uint32 // places that have one key
	order []uint64 // hashes, as taken away
	which []uint8  // and the index of the place where each was alone
}

func newFuseBuilder(f *filter, keys int) *fuseBuilder {
	size := int(f.count+arity-1) << f.shift
	f.prints = make([]byte, size)
	return &fuseBuilder{
		f: f, count: make([]uint8, size), xor: make([]uint64, size),
		order: make([]uint64, 0, keys), which: make([]uint8, 0, keys),
	}
}

// peel reports whether all keys could be taken away.
func (b *fuseBuilder) peel(keys []uint64) bool {
	clear(b.count)
	clear(b.xor)
	b.alone, b.order, b.which = b.alone[:0], b.order[:0], b.which[:0]
	for _, key := range keys {
		h := mix(key + b.f.seed)
		for _, p := range b.f.places(h) {
			if b.count[p]++; b.count[p] == 0 {
				return false // more than 255 of them: hopeless
			}
			b.xor[p] ^= h
		}
	}
	for p, n := range b.count {
		if n == 1 {
			b.alone = append(b.alone, uint32(p)) // places are 32 bits
		}
	}
	for len(b.alone) > 0 {
		at := b.alone[len(b.alone)-1]
		b.alone = b.alone[:len(b.alone)-1]
		if b.count[at] != 1 {
			continue // taken away since
		}
		h := b.xor[at]
		for i, p := range b.f.places(h) {
			if p == at {
				b.order, b.which = append(b.order, h), append(b.which, uint8(i))
			}
			b.count[p]--
			if b.xor[p] ^= h; b.count[p] == 1 {
				b.alone = append(b.alone, p)
			}
		}
	}
	return len(b.order) == len(keys)
}

func (b *fuseBuilder) assign() {
	prints := b.f.prints
	for i, h := range slices.Backward(b.order) {
		p := b.f.places(h)
		at := p[b.which[i]]
		prints[at] = 0
		prints[at] = fingerprint(h) ^ prints[p[0]] ^ prints[p[1]] ^ prints[p[2]]
	}
}

// filterHeader is the size of an encoded filter without its fingerprints.
const filterHeader = 8 + 1 + 4

func (f *filter) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, f.seed)
	b = append(b, f.shift)
	b = binary.LittleEndian.AppendUint32(b, f.count)
	return append(b, f.prints...)
}

// parseFilter decodes a filter, which aliases b, and returns the rest of b.
func parseFilter(b []byte) (f filter, rest []byte, ok bool) {
	if len(b) < filterHeader {
		return f, nil, false
	}
	f.seed, f.shift, f.count = binary.LittleEndian.Uint64(b), b[8], binary.LittleEndian.Uint32(b[9:])
	b = b[filterHeader:]
	if f.count == 0 {
		return f, b, f.seed == 0 && f.shift == 0
	}
	size := (uint64(f.count) + arity - 1) << min(f.shift, maxShift)
	if f.shift > maxShift || size > uint64(len(b)) || size > math.MaxUint32 {
		return f, nil, false
	}
	f.prints = b[:size:size]
	return f, b[size:], true
}
