// SPDX-License-Identifier: Apache-2.0

// Package index says where chunks are. A segment lists the chunks of a few
// packs in the order of their ids; a Table is the union of segments in memory,
// in one sorted array without pointers: 50 bytes a chunk.
package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

// ErrMalformed reports a segment that breaks the rules of the format.
var ErrMalformed = errors.New("malformed index segment")

// Pack is a pack with its chunks.
type Pack struct {
	Ref     ondisk.PackRef
	Key     seal.DataKey // of its chunks
	Size    uint32       // of the object
	Entries []pack.Entry
}

// Location is where a chunk is.
type Location struct {
	Pack  *PackInfo
	Entry pack.Entry
}

// PackInfo is what the index knows of a pack.
type PackInfo struct {
	Ref  ondisk.PackRef
	Key  seal.DataKey
	Size uint32
}

// A record is the fixed-size form of an entry:
//
//	id (32) | pack (4) | offset (4) | sealed (4) | plain (4) | kind (1) | codec (1)
const (
	recSize  = 32 + 4*4 + 2
	packSize = 16 + 4 + 4 + 32 + 4
)

// Encode returns the plaintext of a segment of these packs.
func Encode(packs []Pack) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(packs))) // few
	var recs []byte
	for i, p := range packs {
		b = append(b, p.Ref.Session[:]...)
		b = le.AppendUint32(b, p.Ref.Seq)
		b = le.AppendUint32(b, p.Key.Epoch)
		b = append(b, p.Key.Salt[:]...)
		b = le.AppendUint32(b, p.Size)
		for _, e := range p.Entries {
			recs = append(recs, e.ID[:]...)
			recs = le.AppendUint32(recs, uint32(i)) // few
			recs = le.AppendUint32(recs, e.Offset)
			recs = le.AppendUint32(recs, e.Sealed)
			recs = le.AppendUint32(recs, e.Plain)
			recs = append(recs, byte(e.Kind), byte(e.Codec))
		}
	}
	sort.Sort(records(recs))
	return append(b, recs...)
}

// Size returns the length of a segment with this many packs and chunks.
func Size(packs, chunks int) int { return 4 + packs*packSize + chunks*recSize }

// records sorts an array of records in place.
type records []byte

func (r records) Len() int           { return len(r) / recSize }
func (r records) at(i int) []byte    { return r[i*recSize : (i+1)*recSize] }
func (r records) Less(i, j int) bool { return bytes.Compare(r.at(i), r.at(j)) < 0 }
func (r records) Swap(i, j int) {
	var t [recSize]byte
	copy(t[:], r.at(i))
	copy(r.at(i), r.at(j))
	copy(r.at(j), t[:])
}

// Table is a sorted union of segments. It is immutable once built and then
// safe for concurrent use.
type Table struct {
	packs []*PackInfo
	recs  records
}

// Build decodes segments and merges them.
func Build(segments [][]byte) (*Table, error) {
	t := &Table{}
	for i, s := range segments {
		if err := t.add(s); err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
	}
	sort.Sort(t.recs)
	return t, nil
}

func (t *Table) add(seg []byte) error {
	le := binary.LittleEndian
	if len(seg) < 4 || len(seg) > ondisk.MaxSegment {
		return fmt.Errorf("%w: size", ErrMalformed)
	}
	n := int64(le.Uint32(seg))
	rest := int64(len(seg)) - 4 - n*packSize
	if rest < 0 || rest%recSize != 0 {
		return fmt.Errorf("%w: length", ErrMalformed)
	}
	base := len(t.packs)
	for i := range int(n) {
		p := seg[4+i*packSize:]
		info := &PackInfo{}
		copy(info.Ref.Session[:], p)
		info.Ref.Seq = le.Uint32(p[16:])
		info.Key.Epoch = le.Uint32(p[20:])
		copy(info.Key.Salt[:], p[24:])
		info.Size = le.Uint32(p[56:])
		t.packs = append(t.packs, info)
	}
	start := len(t.recs)
	t.recs = append(t.recs, seg[len(seg)-int(rest):]...)
	for i := start / recSize; i < t.recs.Len(); i++ {
		r := t.recs.at(i)
		p := le.Uint32(r[32:])
		e := decode(r)
		if int64(p) >= n || i > start/recSize && bytes.Compare(r, t.recs.at(i-1)) <= 0 ||
			uint64(e.Offset)+uint64(e.Sealed) > uint64(t.packs[base+int(p)].Size) ||
			e.Plain > ondisk.MaxChunk || e.Sealed > ondisk.MaxChunk+seal.Overhead {
			return fmt.Errorf("%w: record", ErrMalformed)
		}
	}
	for i := start / recSize; i < t.recs.Len(); i++ {
		p := t.recs.at(i)[32:36]
		at := base + int(le.Uint32(p))
		le.PutUint32(p, uint32(at)) // few
	}
	return nil
}

func decode(r []byte) pack.Entry {
	le := binary.LittleEndian
	return pack.Entry{
		ID:     ondisk.ID(r[:32]),
		Offset: le.Uint32(r[36:]),
		Sealed: le.Uint32(r[40:]),
		Plain:  le.Uint32(r[44:]),
		Kind:   ondisk.Kind(r[48]),
		Codec:  ondisk.Codec(r[49]),
	}
}

// Merge returns the union of tables.
func Merge(tables ...*Table) *Table {
	m := &Table{}
	for _, t := range tables {
		base, start := len(m.packs), len(m.recs)
		m.packs = append(m.packs, t.packs...)
		m.recs = append(m.recs, t.recs...)
		for ; start < len(m.recs); start += recSize {
			p := m.recs[start+32 : start+36]
			binary.LittleEndian.PutUint32(p, binary.LittleEndian.Uint32(p)+uint32(base)) // few
		}
	}
	sort.Sort(m.recs)
	return m
}

// Len returns the number of records; a chunk that is in several packs counts
// for each.
func (t *Table) Len() int { return t.recs.Len() }

// Packs returns the packs, which must not be modified.
func (t *Table) Packs() []*PackInfo { return t.packs }

// Find returns where the chunk is; of several copies it returns one.
func (t *Table) Find(id ondisk.ID) (Location, bool) {
	i, ok := t.Ordinal(id)
	if !ok {
		return Location{}, false
	}
	return t.At(i), true
}

// Ordinal returns the place of the chunk's first record. Its further copies
// follow.
func (t *Table) Ordinal(id ondisk.ID) (int, bool) {
	n := t.recs.Len()
	i := sort.Search(n, func(i int) bool { return bytes.Compare(t.recs.at(i)[:32], id[:]) >= 0 })
	return i, i < n && bytes.Equal(t.recs.at(i)[:32], id[:])
}

// At returns what the record at this place says.
func (t *Table) At(i int) Location {
	r := t.recs.at(i)
	return Location{Pack: t.packs[binary.LittleEndian.Uint32(r[32:])], Entry: decode(r)}
}
