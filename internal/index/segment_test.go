// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

func TestNames(t *testing.T) {
	names := []index.Name{{}, {Part: 1}, {Part: 256}, name(0, 1, 0), name(0, 255, 1<<32-1), name(1, 0, 0), name(1, 0, 7), name(9, 3, 1), name(255, 255, 1<<32-1)}
	for i, n := range names {
		if got, ok := index.ParseKey(n.Key()); !ok || got != n {
			t.Errorf("%s parses as %+v, %t", n.Key(), got, ok)
		}
		if i > 0 && (names[i-1].Compare(n) >= 0 || names[i-1].Key() >= n.Key()) {
			t.Errorf("%s does not sort before %s", names[i-1].Key(), n.Key())
		}
	}
	for _, key := range []string{
		"", "index/", "index/00-00", "pack/00-00000000000000000000000000000000-00000000",
		"index/00-0000000000000000000000000000000A-00000000", "index/00_00000000000000000000000000000000-00000000", "index/00-00000000000000000000000000000000-000000000",
	} {
		if n, ok := index.ParseKey(key); ok {
			t.Errorf("%q parses as %+v", key, n)
		}
	}
	old := names[:7]
	for range 300 { // more mergers of one level than there are levels
		next := index.Successor(1, [8]byte{}, old)
		for _, n := range old {
			if n.Compare(next) >= 0 || n.Key() >= next.Key() {
				t.Fatalf("%s does not sort after %s", next.Key(), n.Key())
			}
		}
		old = []index.Name{next, name(0, 200, 0)}
	}
	if index.Above(0) != 1 || index.Above(255) != 255 {
		t.Error("levels")
	}
}

func TestMalformed(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	packs := randomPacks(rng, 2, 3)
	tab := memory(t, decode(t, name(0, 1, 0), packs[:1]), decode(t, name(0, 2, 0), packs[1:]))
	at := name(1, 0, 0)
	var good []byte
	for plain, err := range index.Merge(ondisk.MaxSegment, tab.Covers(), nil, tab) {
		if err != nil {
			t.Fatal(err)
		}
		good = plain
	}
	const names, table, recs = 16, 16 + 2*21, 16 + 2*21 + 2*60
	if len(good) != recs+6*50 || len(good) != index.Size(2, 2, 6) {
		t.Fatalf("a segment of %d bytes", len(good))
	}
	if _, err := index.Decode(at, good); err != nil {
		t.Fatal(err)
	}
	change := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); return b }
	put := func(off int, v uint32) []byte {
		return change(func(b []byte) { binary.LittleEndian.PutUint32(b[off:], v) })
	}
	swap := func(off, size int) []byte {
		return change(func(b []byte) {
			x := bytes.Clone(b[off : off+size])
			copy(b[off:], b[off+size:off+2*size])
			copy(b[off+size:], x)
		})
	}
	for what, seg := range map[string][]byte{
		"empty": {}, "short": good[:15], "truncated": good[:len(good)-1], "trailing": append(bytes.Clone(good), 0),
		"too large": make([]byte, ondisk.MaxSegment+1), "magic": put(0, 0), "version": change(func(b []byte) { b[7] = 2 }),
		"many names": put(8, 1<<32-1), "no names": put(8, 0), "many packs": put(12, 1<<32-1), "no packs": put(12, 0),
		"names out of order": swap(names, 21), "name twice": change(func(b []byte) { copy(b[names+21:table], b[names:]) }),
		"supersedes itself":  change(func(b []byte) { b[names+21] = 1; b[names+22] = 0 }),
		"packs out of order": swap(table, 60), "pack twice": change(func(b []byte) { copy(b[table+60:recs], b[table:]) }),
		"pack size": put(table+56, ondisk.MaxPack+1), "pack of a record": put(recs+32, 2), "offset": put(recs+36, 1<<32-1),
		"sealed length": put(recs+40, ondisk.MaxChunk+seal.Overhead+1), "beyond the pack": put(recs+36, 60<<20), "plain length": put(recs+44, ondisk.MaxChunk+1),
		"out of order": swap(recs, 50), "twice": change(func(b []byte) { copy(b[recs+50:recs+100], b[recs:]) }),
	} {
		if _, err := index.Decode(at, seg); !errors.Is(err, index.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := index.Decode(name(0, 2, 0), good); !errors.Is(err, index.ErrMalformed) {
		t.Errorf("a name that sorts before what is superseded: %v", err)
	}
}

// TestLimit stores the largest segment, and lets Merge cut one chunk more.
func TestLimit(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	n := (ondisk.MaxSegment - index.Size(0, 1, 0)) / 50
	packs := randomPacks(rng, 1, n)
	packs[0].Size = ondisk.MaxPack
	seg := decode(t, name(0, 0, 0), packs)
	if seg.Len() != n {
		t.Fatalf("%d records of %d", seg.Len(), n)
	}
	over := slices.Clone(packs)
	over[0].Entries = append(slices.Clone(over[0].Entries), pack.Entry{Sealed: 28})
	if _, err := index.Decode(name(0, 0, 0), index.Encode(over)); !errors.Is(err, index.ErrMalformed) {
		t.Errorf("past the limit: %v", err)
	}
	more := randomPacks(rng, 1, 1)
	var parts []index.Run
	at := name(1, 0, 0)
	for plain, err := range index.Merge(ondisk.MaxSegment, nil, nil, seg, decode(t, name(0, 1, 0), more)) {
		if err != nil {
			t.Fatal(err)
		}
		s, err := index.Decode(at, plain)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, s)
		at.Part++
	}
	if len(parts) != 2 || parts[0].Len()+parts[1].Len() != n+1 {
		t.Errorf("%d parts", len(parts))
	}
	many := make([]index.Name, 30)
	for i := range many {
		many[i].Part = uint32(i) // few
	}
	for _, err := range index.Merge(index.Size(29, 1, 1), many, nil) {
		if !errors.Is(err, index.ErrTooLarge) {
			t.Errorf("too many names: %v", err)
		}
	}
	for plain, err := range index.Merge(index.Size(30, 1, 1), many, nil) {
		if s, derr := index.Decode(at, plain); err != nil || derr != nil || len(s.Supersedes()) != 30 {
			t.Errorf("as many names as fit: %v, %v", err, derr)
		}
	}
}

func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	f.Add(index.Encode(randomPacks(rng, 1, 2)))
	f.Add(index.Encode(nil))
	f.Add(index.Encode(randomPacks(rng, 3, 0)))
	for plain, err := range index.Merge(ondisk.MaxSegment, []index.Name{name(0, 1, 2), name(0, 7, 0)}, nil, decode(f, name(0, 0, 0), randomPacks(rng, 2, 5))) {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		at := name(1, 0, 0)
		s, err := index.Decode(at, plain)
		if err != nil {
			return
		}
		tab, err := index.NewTable(s)
		if err != nil {
			t.Fatal(err)
		}
		scan, err := index.NewScan(s)
		if err != nil {
			t.Fatal(err)
		}
		all, err := scan.InPacks(func(ondisk.PackRef) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		newModel(all).check(t, index.NewSet(tab))
		if len(s.Supersedes()) == 0 && !bytes.Equal(index.Encode(all), plain) {
			t.Fatal("another encoding of the same content")
		}
	})
}
