// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

func fill(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func randomPacks(rng *rand.Rand, packs, chunks int) []index.Pack {
	var out []index.Pack
	for n := range packs {
		p := index.Pack{Ref: ondisk.PackRef{Seq: uint32(n)}, Size: 60 << 20} // small
		fill(rng, p.Ref.Session[:])
		fill(rng, p.Key.Salt[:])
		off := uint32(40)
		for range chunks {
			e := pack.Entry{Kind: ondisk.Kind(1 + rng.IntN(3)), Codec: ondisk.Codec(rng.IntN(2)), Offset: off, Sealed: 28 + rng.Uint32N(100), Plain: rng.Uint32N(ondisk.MaxChunk)} // small
			fill(rng, e.ID[:])
			off += e.Sealed
			p.Entries = append(p.Entries, e)
		}
		out = append(out, p)
	}
	return out
}

// check looks up every chunk of the packs, and some that are not there.
func check(t *testing.T, tab *index.Table, packs []index.Pack) {
	t.Helper()
	n := 0
	for _, p := range packs {
		for _, e := range p.Entries {
			n++
			at, ok := tab.Find(e.ID)
			if !ok {
				t.Fatalf("chunk %s is lost", e.ID)
			}
			want := index.Location{Pack: &index.PackInfo{Ref: p.Ref, Key: p.Key, Size: p.Size}, Entry: e}
			if diff := cmp.Diff(want, at); diff != "" {
				t.Fatalf("chunk %s (-want +got):\n%s", e.ID, diff)
			}
			other := e.ID
			other[rand.IntN(32)] ^= 1
			if at, ok := tab.Find(other); ok {
				t.Fatalf("found %+v, which is not there", at)
			}
		}
	}
	if tab.Len() != n || len(tab.Packs()) != len(packs) {
		t.Errorf("%d records of %d packs, want %d of %d", tab.Len(), len(tab.Packs()), n, len(packs))
	}
}

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var all []index.Pack
	var segments [][]byte
	var tables []*index.Table
	for _, n := range []struct{ packs, chunks int }{{0, 0}, {1, 0}, {1, 1}, {3, 100}, {7, 311}} {
		packs := randomPacks(rng, n.packs, n.chunks)
		seg := index.Encode(packs)
		if want := index.Size(n.packs, n.packs*n.chunks); len(seg) != want {
			t.Errorf("a segment of %d bytes, announced as %d", len(seg), want)
		}
		tab, err := index.Build([][]byte{seg})
		if err != nil {
			t.Fatal(err)
		}
		check(t, tab, packs)
		all, segments, tables = append(all, packs...), append(segments, seg), append(tables, tab)
	}
	before := slices.Clone(segments[4])
	tab, err := index.Build(segments)
	if err != nil {
		t.Fatal(err)
	}
	check(t, tab, all)
	check(t, index.Merge(tables...), all)
	check(t, index.Merge(index.Merge(tables[:2]...), index.Merge(tables[2:]...)), all)
	check(t, tables[4], all[len(all)-7:]) // merging does not change what is merged
	if !bytes.Equal(before, segments[4]) {
		t.Error("building changed a segment")
	}
}

func TestMalformed(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	good := index.Encode(randomPacks(rng, 2, 3))
	const recs = 4 + 2*60
	change := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); return b }
	put := func(off int, v uint32) []byte {
		return change(func(b []byte) { binary.LittleEndian.PutUint32(b[off:], v) })
	}
	for name, seg := range map[string][]byte{
		"empty": {}, "short": good[:3], "truncated": good[:len(good)-1], "trailing": append(bytes.Clone(good), 0),
		"too large": make([]byte, ondisk.MaxSegment+1), "pack count": put(0, 1<<32-1), "no packs": put(0, 0),
		"pack of a record": put(recs+32, 2), "offset": put(recs+36, 1<<32-1), "sealed length": put(recs+40, ondisk.MaxChunk+seal.Overhead+1),
		"beyond the pack": put(recs+36, 60<<20), "plain length": put(recs+44, ondisk.MaxChunk+1),
		"out of order": change(func(b []byte) { b[recs], b[recs+50] = 0xff, 0 }),
		"twice":        change(func(b []byte) { copy(b[recs+50:recs+100], b[recs:]) }),
	} {
		if _, err := index.Build([][]byte{seg}); !errors.Is(err, index.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzBuild(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	f.Add(index.Encode(randomPacks(rng, 1, 2)), index.Encode(randomPacks(rng, 2, 5)))
	f.Add(index.Encode(nil), []byte{})
	f.Add(index.Encode(randomPacks(rng, 3, 0)), index.Encode(randomPacks(rng, 1, 9)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		tab, err := index.Build([][]byte{a, b})
		if err != nil {
			return
		}
		if want := len(a) + len(b); index.Size(len(tab.Packs()), tab.Len())+4 != want {
			t.Fatalf("%d packs and %d chunks in %d bytes", len(tab.Packs()), tab.Len(), want)
		}
		one, err := index.Build([][]byte{a})
		if err != nil {
			t.Fatal(err)
		}
		two, err := index.Build([][]byte{b})
		if err != nil {
			t.Fatal(err)
		}
		merged := index.Merge(one, two)
		for _, seg := range [][]byte{a, b} {
			n := int(binary.LittleEndian.Uint32(seg))
			for rec := seg[4+60*n:]; len(rec) > 0; rec = rec[50:] {
				for _, tab := range []*index.Table{tab, merged} {
					at, ok := tab.Find(ondisk.ID(rec[:32]))
					if !ok || at.Entry.ID != ondisk.ID(rec[:32]) || uint64(at.Entry.Offset)+uint64(at.Entry.Sealed) > uint64(at.Pack.Size) {
						t.Fatalf("record %x is at %+v, %t", rec[:50], at, ok)
					}
				}
			}
		}
	})
}
