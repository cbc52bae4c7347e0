// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"cmp"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
)

func fill(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func randomPacks(rng *rand.Rand, packs, chunks int) []index.Pack {
	var out []index.Pack
	for n := range packs {
		p := index.Pack{PackInfo: index.PackInfo{Ref: ondisk.PackRef{Seq: uint32(n)}, Size: 60 << 20}} // small
		fill(rng, p.Ref.Session[:])
		fill(rng, p.Key.Salt[:])
		p.Key.Epoch = rng.Uint32N(3)
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

// place is a copy of a chunk in the model.
type place struct {
	Pack  index.PackInfo
	Entry pack.Entry
}

func comparePlaces(a, b place) int {
	return cmp.Or(bytes.Compare(a.Pack.Ref.Session[:], b.Pack.Ref.Session[:]), cmp.Compare(a.Pack.Ref.Seq, b.Pack.Ref.Seq), cmp.Compare(a.Entry.Offset, b.Entry.Offset))
}

// model is what tables have to say.
type model struct {
	packs  map[index.PackInfo]bool
	chunks map[ondisk.ID][]place
}

func newModel(lists ...[]index.Pack) *model {
	m := &model{packs: map[index.PackInfo]bool{}, chunks: map[ondisk.ID][]place{}}
	for _, list := range lists {
		for _, p := range list {
			m.packs[p.PackInfo] = true
			for _, e := range p.Entries {
				if at := (place{p.PackInfo, e}); !slices.Contains(m.chunks[e.ID], at) {
					m.chunks[e.ID] = append(m.chunks[e.ID], at)
				}
			}
		}
	}
	for _, places := range m.chunks {
		slices.SortFunc(places, comparePlaces)
	}
	return m
}

// check compares a set with the model: every chunk, others that are not there,
// and everything in order.
func (m *model) check(t *testing.T, s *index.Set) {
	t.Helper()
	ordinals := map[int]bool{}
	for id, want := range m.chunks {
		places, err := s.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		var got []place
		for _, l := range places {
			got = append(got, place{*l.Pack, l.Entry})
		}
		slices.SortFunc(got, comparePlaces)
		if !slices.Equal(want, got) { // gocmp is slow
			t.Fatalf("chunk %s (-want +got):\n%s", id, gocmp.Diff(want, got))
		}
		n, ok, err := s.Ordinal(id)
		if err != nil || !ok || n < 0 || n >= s.Len() || ordinals[n] {
			t.Fatalf("chunk %s has the ordinal %d of %d, %t, %v", id, n, s.Len(), ok, err)
		}
		ordinals[n] = true
		other := id
		other[rand.IntN(32)] ^= 1
		if m.chunks[other] != nil {
			continue
		}
		if places, err := s.Find(other); err != nil || len(places) > 0 {
			t.Fatalf("found %+v, %v, which is not there", places, err)
		}
		if _, ok, err := s.Ordinal(other); ok || err != nil {
			t.Fatalf("an ordinal of what is not there: %t, %v", ok, err)
		}
	}
	m.checkScan(t, s)
}

func (m *model) checkScan(t *testing.T, s *index.Set) {
	t.Helper()
	scan, err := s.Scan()
	if err != nil {
		t.Fatal(err)
	}
	var packs []index.PackInfo
	for p, err := range scan.Packs() {
		if err != nil {
			t.Fatal(err)
		}
		packs = append(packs, p)
	}
	got := &model{packs: map[index.PackInfo]bool{}, chunks: map[ondisk.ID][]place{}}
	for _, p := range packs {
		got.packs[p] = true
	}
	last := ondisk.ID{}
	for c, err := range scan.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Compare(last[:], c.ID[:]) >= 0 {
			t.Fatalf("%s after %s", c.ID, last)
		}
		last = c.ID
		if n, ok, err := s.Ordinal(c.ID); n != c.Ordinal || !ok || err != nil {
			t.Fatalf("chunk %s has the ordinals %d and %d, %t, %v", c.ID, n, c.Ordinal, ok, err)
		}
		for _, l := range c.Copies {
			got.chunks[c.ID] = append(got.chunks[c.ID], place{packs[l.Pack], l.Entry})
		}
	}
	if diff := gocmp.Diff(m.packs, got.packs); diff != "" || len(packs) != len(m.packs) {
		t.Fatalf("%d packs (-want +got):\n%s", len(packs), diff)
	}
	for _, places := range got.chunks {
		slices.SortFunc(places, comparePlaces)
	}
	if !maps.EqualFunc(m.chunks, got.chunks, slices.Equal) {
		t.Fatalf("(-want +got):\n%s", gocmp.Diff(m.chunks, got.chunks))
	}
}

func name(level uint8, n byte, part uint32) index.Name {
	return index.Name{Level: level, ID: [16]byte{n}, Part: part}
}

func decode(tb testing.TB, n index.Name, packs []index.Pack) *index.Segment {
	tb.Helper()
	s, err := index.Decode(n, index.Encode(packs))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func newAuth() *index.Auth { return index.NewAuth([32]byte{1, 2, 3}) }

// file makes a table that is a file.
func file(tb testing.TB, runs ...index.Run) *index.Table {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "table")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	if err := index.WriteTable(f, newAuth(), "t", runs...); err != nil {
		tb.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	t, err := index.OpenTable(f, info.Size(), newAuth(), "t")
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func memory(tb testing.TB, runs ...index.Run) *index.Table {
	tb.Helper()
	t, err := index.NewTable(runs...)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// TestModel compares segments, tables of both kinds, mergers of these, and sets
// with a map, at random.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var runs []index.Run
		var all [][]index.Pack
		for n := range 1 + rng.IntN(6) {
			packs := randomPacks(rng, rng.IntN(5), rng.IntN(1+rng.IntN(600)))
			if n > 0 && rng.IntN(2) == 0 { // the same pack in another segment, and other copies of its chunks
				old := all[rng.IntN(n)]
				packs = append(packs, old[:rng.IntN(len(old)+1)]...)
				for i := range packs {
					if i > 0 && len(packs[i].Entries) > 0 && len(packs[i-1].Entries) > 0 {
						packs[i].Entries = slices.Clone(packs[i].Entries)
						packs[i].Entries[0].ID = packs[i-1].Entries[0].ID
					}
				}
			}
			slices.SortFunc(packs, func(a, b index.Pack) int { return bytes.Compare(a.Ref.Session[:], b.Ref.Session[:]) })
			packs = slices.CompactFunc(packs, func(a, b index.Pack) bool { return a.PackInfo == b.PackInfo })
			all, runs = append(all, packs), append(runs, decode(t, name(0, byte(n), 0), packs)) // few
		}
		m := newModel(all...)
		var each []*index.Table
		for i, r := range runs {
			if i%2 == 0 {
				each = append(each, file(t, r))
			} else {
				each = append(each, memory(t, r))
			}
		}
		var again []index.Run
		for _, tab := range each {
			again = append(again, tab)
		}
		half := len(runs) / 2
		t.Logf("seed %d: %d segments, %d packs, %d chunks", seed, len(runs), len(m.packs), len(m.chunks))
		for _, tables := range [][]*index.Table{
			{memory(t, runs...)},
			{file(t, runs...)},
			each,
			{file(t, again...)},
			{memory(t, again...)},
			{file(t, runs[:half]...), memory(t, again[half:]...)},
			{file(t, append(slices.Clone(runs), again...)...)},
		} {
			m.check(t, index.NewSet(tables...))
			var covers []index.Name
			for _, tab := range tables {
				covers = append(covers, tab.Covers()...)
			}
			slices.SortFunc(covers, index.Name.Compare)
			if diff := gocmp.Diff(index.Covered(runs...), slices.Compact(covers)); diff != "" {
				t.Fatalf("covers (-want +got):\n%s", diff)
			}
		}
		checkMerge(t, rng, m, again)
	}
}

// checkMerge merges runs into small segments, without some packs.
func checkMerge(t *testing.T, rng *rand.Rand, m *model, runs []index.Run) {
	t.Helper()
	gone := map[ondisk.PackRef]bool{}
	for p := range m.packs {
		gone[p.Ref] = rng.IntN(4) == 0
	}
	supersedes := index.Covered(runs...)
	limit := index.Size(len(supersedes), 4, 100+rng.IntN(1000))
	next := index.Successor(1, [8]byte{9}, supersedes)
	var segs []index.Run
	var last *index.Segment
	for plain, err := range index.Merge(limit, supersedes, func(p ondisk.PackRef) bool { return gone[p] }, runs...) {
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > limit {
			t.Fatalf("a part of %d bytes, the limit is %d", len(plain), limit)
		}
		if last != nil && len(last.Supersedes()) > 0 {
			t.Fatal("a part before the last one supersedes")
		}
		var derr error
		if last, derr = index.Decode(next, plain); derr != nil {
			t.Fatal(derr)
		}
		segs = append(segs, last)
		next.Part++
	}
	if last == nil || gocmp.Diff(supersedes, last.Supersedes()) != "" {
		t.Fatalf("the last part supersedes %v", last.Supersedes())
	}
	want := &model{packs: map[index.PackInfo]bool{}, chunks: map[ondisk.ID][]place{}}
	for id, places := range m.chunks {
		for _, p := range places {
			if !gone[p.Pack.Ref] {
				want.chunks[id], want.packs[p.Pack] = append(want.chunks[id], p), true
			}
		}
	}
	want.check(t, index.NewSet(memory(t, segs...)))
}

func TestInPacks(t *testing.T) {
	packs := randomPacks(rand.New(rand.NewPCG(4, 4)), 5, 30)
	scan, err := index.NewSet(file(t, decode(t, name(0, 0, 0), packs))).Scan()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 2, 5} {
		want := map[ondisk.PackRef]index.Pack{}
		for _, p := range packs[:n] {
			p.Entries = slices.Clone(p.Entries)
			slices.SortFunc(p.Entries, func(a, b pack.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
			want[p.Ref] = p
		}
		list, err := scan.InPacks(func(p ondisk.PackRef) bool { _, ok := want[p]; return ok })
		if err != nil {
			t.Fatal(err)
		}
		got := map[ondisk.PackRef]index.Pack{}
		for _, p := range list {
			got[p.Ref] = p
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
