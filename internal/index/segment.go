// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

// ErrMalformed reports a segment that breaks the rules of the format.
var ErrMalformed = errors.New("malformed index segment")

// PackInfo is what the index knows of a pack.
type PackInfo struct {
	Ref  ondisk.PackRef
	Key  seal.DataKey // of the session
	Size uint32       // of the object
}

// Pack is a pack with its chunks.
type Pack struct {
	PackInfo
	Entries []pack.Entry
}

// A segment is
//
//	magic and version (8) | superseded names (4) | packs (4) |
//	names | pack table | records
//
// where every array is strictly sorted: names like keys, packs by session,
// number and then the rest, records by id, pack and offset. So a set of facts
// has one encoding. A pack and a record are
//
//	session (16) | number (4) | epoch (4) | salt (32) | size (4)
//	id (32) | pack (4) | offset (4) | sealed (4) | plain (4) | kind (1) | codec (1)
const (
	magic      = "PROTIDX\x01"
	headerSize = len(magic) + 4 + 4
	packSize   = 16 + 4 + 4 + 32 + 4
	recSize    = 32 + 4*4 + 2
)

// Size returns the length of a segment with so much in it.
func Size(superseded, packs, chunks int) int {
	return headerSize + superseded*nameSize + packs*packSize + chunks*recSize
}

// Encode returns the plaintext of a segment of these packs, in any order, each
// with its chunks in any order.
func Encode(packs []Pack) []byte {
	sorted := slices.Clone(packs)
	slices.SortFunc(sorted, func(a, b Pack) int { return comparePacks(a.PackInfo, b.PackInfo) })
	infos := make([]PackInfo, 0, len(packs))
	var recs []byte
	for i, p := range sorted {
		infos = append(infos, p.PackInfo)
		for _, e := range p.Entries {
			recs = appendRecord(recs, uint32(i), e) // below MaxSegment
		}
	}
	sort.Sort(records(recs))
	return assemble(nil, infos, recs)
}

func assemble(supersedes []Name, packs []PackInfo, recs []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, Size(len(supersedes), len(packs), len(recs)/recSize))
	b = append(b, magic...)
	b = le.AppendUint32(b, uint32(len(supersedes))) // below MaxSegment
	b = le.AppendUint32(b, uint32(len(packs)))      // below MaxSegment
	b = appendNames(b, supersedes)
	for _, p := range packs {
		b = appendPack(b, p)
	}
	return append(b, recs...)
}

// Segment is a decoded segment. It is immutable.
type Segment struct {
	name       Name
	supersedes []Name
	packs      []PackInfo
	recs       records // of the segment's own plaintext
}

// Decode checks the plaintext of the segment of this name and returns it. The
// plaintext must not be modified afterwards.
func Decode(name Name, plain []byte) (*Segment, error) {
	bad := func(what string) (*Segment, error) { return nil, fmt.Errorf("%w: %s", ErrMalformed, what) }
	le := binary.LittleEndian
	if len(plain) < headerSize || len(plain) > ondisk.MaxSegment {
		return bad("size")
	}
	if string(plain[:len(magic)]) != magic {
		return bad("magic or version")
	}
	rest := int64(len(plain) - headerSize)
	names := int64(le.Uint32(plain[len(magic):])) * nameSize
	packs := int64(le.Uint32(plain[len(magic)+4:])) * packSize
	if names > rest || packs > rest-names || (rest-names-packs)%recSize != 0 {
		return bad("length")
	}
	body := plain[headerSize:]
	s := &Segment{name: name, recs: records(body[names+packs:])}
	var ok bool
	if s.supersedes, ok = parseNames(body[:names]); !ok {
		return bad("superseded names")
	}
	// Only what sorts before can be superseded: so nothing does so in a circle.
	if n := len(s.supersedes); n > 0 && s.supersedes[n-1].Compare(name) >= 0 {
		return bad("it supersedes a later segment")
	}
	s.packs = make([]PackInfo, 0, packs/packSize)
	for b := body[names : names+packs]; len(b) > 0; b = b[packSize:] {
		p := parsePack(b)
		if n := len(s.packs); n > 0 && comparePacks(s.packs[n-1], p) >= 0 || p.Size > ondisk.MaxPack {
			return bad("pack table")
		}
		s.packs = append(s.packs, p)
	}
	for i := range s.recs.Len() {
		if !s.valid(i) {
			return bad("record")
		}
	}
	return s, nil
}

func (s *Segment) valid(i int) bool {
	r := s.recs.at(i)
	p, e := parseRecord(r)
	return int64(p) < int64(len(s.packs)) &&
		uint64(e.Offset)+uint64(e.Sealed) <= uint64(s.packs[p].Size) &&
		e.Sealed <= ondisk.MaxChunk+seal.Overhead && e.Plain <= ondisk.MaxChunk &&
		(i == 0 || compareRecords(s.recs.at(i-1), r) < 0)
}

// Name returns the segment's name.
func (s *Segment) Name() Name { return s.name }

// Supersedes returns the names of the segments whose content this one has, so
// that they need not be read. Where a merger has several parts, the last one
// that is stored names them.
func (s *Segment) Supersedes() []Name { return s.supersedes }

// Packs returns the packs, which must not be modified.
func (s *Segment) Packs() []PackInfo { return s.packs }

// Len returns the number of records.
func (s *Segment) Len() int { return s.recs.Len() }

func appendPack(b []byte, p PackInfo) []byte {
	le := binary.LittleEndian
	b = append(b, p.Ref.Session[:]...)
	b = le.AppendUint32(b, p.Ref.Seq)
	b = le.AppendUint32(b, p.Key.Epoch)
	b = append(b, p.Key.Salt[:]...)
	return le.AppendUint32(b, p.Size)
}

func parsePack(b []byte) PackInfo {
	le := binary.LittleEndian
	return PackInfo{
		Ref:  ondisk.PackRef{Session: [16]byte(b[:16]), Seq: le.Uint32(b[16:])},
		Key:  seal.DataKey{Epoch: le.Uint32(b[20:]), Salt: seal.Salt(b[24:56])},
		Size: le.Uint32(b[56:]),
	}
}

func comparePacks(a, b PackInfo) int {
	return cmp.Or(bytes.Compare(a.Ref.Session[:], b.Ref.Session[:]), cmp.Compare(a.Ref.Seq, b.Ref.Seq),
		cmp.Compare(a.Key.Epoch, b.Key.Epoch), bytes.Compare(a.Key.Salt[:], b.Key.Salt[:]), cmp.Compare(a.Size, b.Size))
}

func appendRecord(b []byte, p uint32, e pack.Entry) []byte {
	le := binary.LittleEndian
	b = append(b, e.ID[:]...)
	b = le.AppendUint32(b, p)
	b = le.AppendUint32(b, e.Offset)
	b = le.AppendUint32(b, e.Sealed)
	b = le.AppendUint32(b, e.Plain)
	return append(b, byte(e.Kind), byte(e.Codec))
}

func parseRecord(r []byte) (uint32, pack.Entry) {
	le := binary.LittleEndian
	return le.Uint32(r[32:]), pack.Entry{
		ID: ondisk.ID(r[:32]), Offset: le.Uint32(r[36:]), Sealed: le.Uint32(r[40:]), Plain: le.Uint32(r[44:]),
		Kind: ondisk.Kind(r[48]), Codec: ondisk.Codec(r[49]),
	}
}

// compareRecords orders by id, pack, offset, and then the rest.
func compareRecords(a, b []byte) int {
	if c := bytes.Compare(a[:32], b[:32]); c != 0 {
		return c
	}
	le := binary.LittleEndian
	return cmp.Or(cmp.Compare(le.Uint32(a[32:]), le.Uint32(b[32:])), cmp.Compare(le.Uint32(a[36:]), le.Uint32(b[36:])),
		bytes.Compare(a[40:recSize], b[40:recSize]))
}

// records sorts an array of records in place.
type records []byte

func (r records) Len() int           { return len(r) / recSize }
func (r records) at(i int) []byte    { return r[i*recSize : (i+1)*recSize] }
func (r records) Less(i, j int) bool { return compareRecords(r.at(i), r.at(j)) < 0 }
func (r records) Swap(i, j int) {
	var t [recSize]byte
	copy(t[:], r.at(i))
	copy(r.at(i), r.at(j))
	copy(r.at(j), t[:])
}
