// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// TestLedgerReachesAll has random histories: packs come and go, some are
// damaged, ledgers are lost. A pack that stays is read by the time that the runs
// since it was first seen, or since the ledger was lost, have read as much as
// there was at that time.
func TestLedgerReachesAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		sizes, deadline, damaged := map[ondisk.PackRef]int64{}, map[ondisk.PackRef]int{}, map[ondisk.PackRef]bool{}
		budget := 1 + rng.Int64N(300)
		loss, next := rng.IntN(4), uint32(0)
		l := &packLedger{packs: map[ondisk.PackRef]stamp{}}
		for run := range 60 {
			for range rng.IntN(8) {
				ref := ondisk.PackRef{Session: [16]byte{byte(rng.IntN(4))}, Seq: next}
				next++
				sizes[ref], damaged[ref] = 1+rng.Int64N(100), rng.IntN(20) == 0
			}
			for ref := range sizes {
				if rng.IntN(30) == 0 {
					delete(sizes, ref)
					delete(deadline, ref)
				}
			}
			l = throughStore(t, rng, l)
			if rng.IntN(60) < loss {
				l = &packLedger{packs: map[ondisk.PackRef]stamp{}}
				clear(deadline)
			}
			var stored int64
			for ref, size := range sizes {
				if !damaged[ref] || l.packs[ref].state != packDamaged {
					stored += size
				}
			}
			for ref := range sizes {
				if _, ok := deadline[ref]; !ok {
					deadline[ref] = run + int((stored+budget-1)/budget)
				}
			}
			due := l.due(sizes, budget, randomPack())
			var read int64
			for _, ref := range due {
				if l.packs[ref].state != packDamaged {
					read += sizes[ref]
				}
				state := packRead
				if damaged[ref] {
					state = packDamaged
				}
				l.note(ref, state)
				deadline[ref] = run + 1 + int((stored+budget-1)/budget)
			}
			if read > budget+100 || read < min(budget, stored) {
				t.Fatalf("run %d reads %d of %d bytes, with a budget of %d", run, read, stored, budget)
			}
			for ref := range sizes {
				if deadline[ref] <= run {
					t.Fatalf("run %d: pack %v was not read", run, ref)
				}
				if l.packs[ref].state == packDamaged && !slices.Contains(due, ref) {
					t.Fatalf("run %d: the damaged pack %v was not read again", run, ref)
				}
			}
		}
	}
}

// throughStore encodes a ledger and decodes it again, at times merged with an
// older one of another verifier.
func throughStore(t *testing.T, rng *rand.Rand, l *packLedger) *packLedger {
	t.Helper()
	out := &packLedger{packs: map[ondisk.PackRef]stamp{}}
	older := &packLedger{run: l.run / 2, packs: map[ondisk.PackRef]stamp{}}
	for ref, s := range l.packs {
		if rng.IntN(3) == 0 {
			older.packs[ref] = stamp{min(s.run, older.run) / 2, packSeen}
		}
	}
	for _, plain := range append(older.encode(), l.encode()...) {
		part, err := decodeLedger(plain)
		if err != nil {
			t.Fatal(err)
		}
		out.merge(part)
	}
	if !maps.Equal(l.packs, out.packs) || out.run != l.run {
		t.Fatalf("run %d, %v became run %d, %v", l.run, l.packs, out.run, out.packs)
	}
	return out
}

// TestLedgerWithoutMemory always loses the ledger. All packs are read all the
// same, by and by.
func TestLedgerWithoutMemory(t *testing.T) {
	sizes := map[ondisk.PackRef]int64{}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 50 {
		var ref ondisk.PackRef
		for j := range ref.Session {
			ref.Session[j] = byte(rng.Uint32())
		}
		sizes[ref] = int64(1 + i%3)
	}
	read := map[ondisk.PackRef]bool{}
	for range 2000 {
		l := &packLedger{packs: map[ondisk.PackRef]stamp{}}
		for _, ref := range l.due(sizes, 10, randomPack()) {
			read[ref] = true
		}
	}
	if len(read) != len(sizes) {
		t.Errorf("%d of %d packs were read", len(read), len(sizes))
	}
}

// TestLargeLedger has more packs than one object may.
func TestLargeLedger(t *testing.T) {
	l := &packLedger{run: 7, packs: map[ondisk.PackRef]stamp{}}
	for i := range uint32(maxLedger + 1000) {
		l.packs[ondisk.PackRef{Seq: i}] = stamp{run: 3, state: packRead}
	}
	parts := l.encode()
	if len(parts) != 2 || len(parts[0]) > 100 {
		t.Fatalf("%d objects", len(parts))
	}
	out := &packLedger{packs: map[ondisk.PackRef]stamp{}}
	for _, plain := range parts {
		part, err := decodeLedger(plain)
		if err != nil {
			t.Fatal(err)
		}
		out.merge(part)
	}
	if !maps.Equal(l.packs, out.packs) {
		t.Error("it is another one")
	}
}

// FuzzDecodeLedger has a small limit: the real one makes 20 MB of 26 bytes, which
// the seeds do once, and not for every input.
func FuzzDecodeLedger(f *testing.F) {
	const limit = 1 << 10
	l := &packLedger{run: 9, packs: map[ondisk.PackRef]stamp{}}
	f.Add(l.encode()[0])
	for i := range uint32(9) {
		l.packs[ondisk.PackRef{Session: [16]byte{byte(i / 4)}, Seq: i * i}] = stamp{run: uint64(i), state: packState(i % 3)}
	}
	f.Add(l.encode()[0])
	huge := ondisk.AppendUvarint([]byte{ledgerVersion, 1, 1}, 0)
	huge = append(append(huge[:3], make([]byte, 16)...), 1)
	huge = ondisk.AppendUvarint(append(huge, 0), math.MaxUint32)
	huge = append(huge, 0, 1)
	f.Add(huge)
	if _, err := decodeLedger(huge); err == nil {
		f.Error("more packs than there may be")
	}
	full := ondisk.AppendUvarint(append(huge[:20:20], 0), maxLedger-1)
	if l, err := decodeLedger(append(full, 0, 1)); err != nil || len(l.packs) != maxLedger {
		f.Errorf("as many packs as there may be: %v", err)
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		l, err := decodeLedgerOf(plain, limit)
		if err != nil {
			return
		}
		if len(l.packs) > limit {
			t.Fatalf("%d packs of %d bytes", len(l.packs), len(plain))
		}
		if again := l.encode(); len(again) != 1 || !bytes.Equal(again[0], plain) {
			t.Fatalf("%x became %x", plain, again)
		}
	})
}
