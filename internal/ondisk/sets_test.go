// SPDX-License-Identifier: Apache-2.0

package ondisk_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

func attempt(name byte, n uint32) ondisk.Attempt { return ondisk.Attempt{Name: [16]byte{name}, N: n} }

func packRef(session byte, seq uint32) ondisk.PackRef {
	return ondisk.PackRef{Session: [16]byte{session}, Seq: seq}
}

func TestAttemptSet(t *testing.T) {
	s := ondisk.NewAttemptSet(attempt(2, 7), attempt(1, math.MaxUint32), attempt(2, 0), attempt(2, 7))
	if s.Len() != 3 || !s.Has(attempt(2, 7)) || s.Has(attempt(2, 1)) || s.Has(attempt(3, 0)) {
		t.Errorf("%v", s)
	}
	for name, want := range map[byte]uint32{1: math.MaxUint32, 2: 7} {
		if n, ok := s.Max([16]byte{name}); n != want || !ok {
			t.Errorf("highest of %d: %d, %t", name, n, ok)
		}
	}
	for _, name := range []byte{0, 3} {
		if n, ok := s.Max([16]byte{name}); ok {
			t.Errorf("highest of %d: %d", name, n)
		}
	}
	u := ondisk.UnionAttempts(s, nil, ondisk.NewAttemptSet(attempt(0, 1)))
	if u.Len() != 4 || !u.Covers(s) || s.Covers(u) || !u.Covers(nil) {
		t.Errorf("union %v", u)
	}
	var none *ondisk.AttemptSet
	if _, ok := none.Max([16]byte{}); ok || none.Len() != 0 || none.Has(attempt(1, 1)) || none.Encode() != nil || none.Covers(s) || !none.Covers(nil) {
		t.Error("nil is not empty")
	}
}

// model is a set of packs as a map.
type model map[ondisk.PackRef]ondisk.Reason

func (m model) add(reason ondisk.Reason, p ondisk.PackRef) { m[p] = max(m[p], reason) }

// TestPackSet compares random unions with a map.
func TestPackSet(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m := model{}
		var sets []*ondisk.PackSet
		for range rnd.IntN(8) {
			reason := ondisk.Reason(1 + rnd.IntN(2))
			var refs []ondisk.PackRef
			for range rnd.IntN(12) {
				p := packRef(byte(rnd.IntN(3)), uint32(rnd.IntN(12)))
				if rnd.IntN(4) == 0 {
					p.Seq = math.MaxUint32 - p.Seq
				}
				refs = append(refs, p)
				m.add(reason, p)
			}
			sets = append(sets, ondisk.NewPackSet(reason, refs...))
		}
		u := ondisk.UnionPacks(append(sets, nil)...)
		if int(u.Len()) != len(m) {
			t.Fatalf("seed %d: %d packs, want %d", seed, u.Len(), len(m))
		}
		damaged := false
		for s := range byte(3) {
			for n := range uint32(13) {
				for _, p := range []ondisk.PackRef{packRef(s, n), packRef(s, math.MaxUint32-n)} {
					if u.Reason(p) != m[p] || u.Has(p) != (m[p] != 0) {
						t.Fatalf("seed %d: %v is %d, want %d", seed, p, u.Reason(p), m[p])
					}
					damaged = damaged || m[p] == ondisk.Damaged
				}
			}
		}
		if u.Damaged() != damaged {
			t.Fatalf("seed %d: damaged: %t", seed, damaged)
		}
		for i, s := range sets {
			covers := true
			for p, r := range m {
				covers = covers && s.Reason(p) >= r
			}
			if !u.Covers(s) || s.Covers(u) != covers {
				t.Fatalf("seed %d: set %d covers all: %t, want %t", seed, i, s.Covers(u), covers)
			}
		}
		again := make([]*ondisk.PackSet, 0, 1)
		for _, b := range u.Encode() {
			s, err := ondisk.DecodePackSet(b)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			again = append(again, s)
		}
		if got := ondisk.UnionPacks(again...); !got.Covers(u) || !u.Covers(got) || len(again) > 0 && !bytes.Equal(got.Encode()[0], u.Encode()[0]) {
			t.Fatalf("seed %d: decodes to %v, not %v", seed, got, u)
		}
	}
}

// TestSetEncoding freezes the encoding.
func TestSetEncoding(t *testing.T) {
	closed := ondisk.NewAttemptSet(attempt(1, 300), attempt(0xff, 0))
	condemned := ondisk.UnionPacks(ondisk.NewPackSet(ondisk.Garbage, packRef(1, 0), packRef(1, 1), packRef(1, 2)), ondisk.NewPackSet(ondisk.Damaged, packRef(1, 3), packRef(2, 128)))
	zeros := "000000000000000000000000000000"
	var got []string
	for _, b := range append(closed.Encode(), condemned.Encode()...) {
		got = append(got, hex.EncodeToString(b))
	}
	want := []string{
		"0102" + "01" + zeros + "ac02" + "ff" + zeros + "00",
		"0102" + "01" + zeros + "02" + "000201" + "000002" + "02" + zeros + "01" + "80010002",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLargeSets are split over several objects.
func TestLargeSets(t *testing.T) {
	n := ondisk.MaxSet/16 + 10
	attempts, packs := make([]ondisk.Attempt, n), make([]ondisk.PackRef, n)
	for i := range n {
		attempts[i] = ondisk.Attempt{N: uint32(i) * 9}
		packs[i] = packRef(byte(i%3), uint32(i)*9)
	}
	closed, condemned := ondisk.NewAttemptSet(attempts...), ondisk.NewPackSet(ondisk.Damaged, packs...)
	var as []*ondisk.AttemptSet
	for _, b := range closed.Encode() {
		s, err := ondisk.DecodeAttemptSet(b)
		if err != nil {
			t.Fatal(err)
		}
		as = append(as, s)
	}
	var ps []*ondisk.PackSet
	for _, b := range condemned.Encode() {
		s, err := ondisk.DecodePackSet(b)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, s)
	}
	if u := ondisk.UnionAttempts(as...); len(as) < 2 || u.Len() != n || !u.Covers(closed) {
		t.Errorf("%d objects with %d attempts", len(as), u.Len())
	}
	if u := ondisk.UnionPacks(ps...); len(ps) < 2 || u.Len() != int64(n) || !u.Covers(condemned) {
		t.Errorf("%d objects with %d packs", len(ps), u.Len())
	}
}

func TestMalformedSets(t *testing.T) {
	id := func(b byte) []byte { return append([]byte{b}, make([]byte, 15)...) }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, b := range map[string][]byte{
		"nothing":      nil,
		"version":      cat([]byte{2, 1}, id(1), []byte{0}),
		"no elements":  {1, 0},
		"too few":      cat([]byte{1, 2}, id(1), []byte{0}),
		"trailing":     cat([]byte{1, 1}, id(1), []byte{0, 0}),
		"twice":        cat([]byte{1, 2}, id(1), []byte{0}, id(1), []byte{0}),
		"out of order": cat([]byte{1, 2}, id(2), []byte{0}, id(1), []byte{0}),
		"number":       cat([]byte{1, 1}, id(1), []byte{0x80, 0x80, 0x80, 0x80, 0x10}),
		"too large":    cat([]byte{1, 1}, make([]byte, ondisk.MaxSet)),
	} {
		if _, err := ondisk.DecodeAttemptSet(b); !errors.Is(err, ondisk.ErrMalformed) {
			t.Errorf("attempts: %s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"version":           cat([]byte{0, 1}, id(1), []byte{1, 0, 0, 1}),
		"no sessions":       {1, 0},
		"no runs":           cat([]byte{1, 1}, id(1), []byte{0}),
		"reason 0":          cat([]byte{1, 1}, id(1), []byte{1, 0, 0, 0}),
		"reason 3":          cat([]byte{1, 1}, id(1), []byte{1, 0, 0, 3}),
		"trailing":          cat([]byte{1, 1}, id(1), []byte{1, 0, 0, 1, 0}),
		"run in two pieces": cat([]byte{1, 1}, id(1), []byte{2, 0, 0, 1, 0, 0, 1}),
		"twice":             cat([]byte{1, 2}, id(1), []byte{1, 0, 0, 1}, id(1), []byte{1, 9, 0, 1}),
		"out of order":      cat([]byte{1, 2}, id(2), []byte{1, 0, 0, 1}, id(1), []byte{1, 9, 0, 1}),
		"overflow":          cat([]byte{1, 1}, id(1), []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1}),
		"overflow later":    cat([]byte{1, 1}, id(1), []byte{2, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0, 0, 2}),
		"too large":         cat([]byte{1, 1}, make([]byte, ondisk.MaxSet)),
	} {
		if _, err := ondisk.DecodePackSet(b); !errors.Is(err, ondisk.ErrMalformed) {
			t.Errorf("packs: %s: %v", name, err)
		}
	}
}

func FuzzSets(f *testing.F) {
	for _, b := range ondisk.NewAttemptSet(attempt(1, 300), attempt(2, 0)).Encode() {
		f.Add(b)
	}
	for _, b := range ondisk.UnionPacks(ondisk.NewPackSet(ondisk.Garbage, packRef(1, 0), packRef(1, 7)), ondisk.NewPackSet(ondisk.Damaged, packRef(1, 8))).Encode() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ondisk.DecodeAttemptSet(b); err == nil {
			if got := s.Encode(); len(got) != 1 || !bytes.Equal(got[0], b) {
				t.Errorf("attempts: %x becomes %x", b, got)
			}
		}
		if s, err := ondisk.DecodePackSet(b); err == nil {
			if got := s.Encode(); len(got) != 1 || !bytes.Equal(got[0], b) {
				t.Errorf("packs: %x becomes %x", b, got)
			}
			if u := ondisk.UnionPacks(s, s); u.Len() != s.Len() || !bytes.Equal(u.Encode()[0], b) {
				t.Errorf("packs: union with itself of %x", b)
			}
		}
	})
}
