// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
)

func tableBytes(tb testing.TB, name string, runs ...index.Run) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := index.WriteTable(&b, newAuth(), name, runs...); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func open(b []byte, name string) (*index.Table, error) {
	return index.OpenTable(bytes.NewReader(b), int64(len(b)), newAuth(), name)
}

// TestDamagedTable changes every byte of a small file: it does not open, or
// whatever it answers is right.
func TestDamagedTable(t *testing.T) {
	packs := randomPacks(rand.New(rand.NewPCG(1, 9)), 3, 10)
	m := newModel(packs)
	good := tableBytes(t, "t", decode(t, name(0, 1, 0), packs))
	tab, err := open(good, "t")
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, index.NewSet(tab))
	opened, wrong := 0, 0
	look := func(what string, b []byte) {
		tab, err := open(b, "t")
		if err != nil {
			if !errors.Is(err, index.ErrDamaged) {
				t.Fatalf("%s: %v", what, err)
			}
			return
		}
		opened++
		s := index.NewSet(tab)
		for id, want := range m.chunks {
			got, err := s.Find(id)
			if err != nil && !errors.Is(err, index.ErrDamaged) {
				t.Fatalf("%s: %v", what, err)
			}
			if err != nil {
				wrong++
			} else if len(got) != len(want) || *got[0].Pack != want[0].Pack || got[0].Entry != want[0].Entry {
				t.Fatalf("%s: chunk %s is at %+v", what, id, got)
			}
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		look(fmt.Sprintf("byte %d", i), b)
	}
	for n := 0; n < len(good); n += 1 + n/50 {
		look(fmt.Sprintf("cut to %d", n), good[:n])
	}
	look("longer", append(bytes.Clone(good), make([]byte, 4096)...))
	swapped := bytes.Clone(good)
	copy(swapped, good[4096:8192])
	copy(swapped[4096:], good[:4096])
	look("blocks exchanged", swapped)
	if opened == 0 || wrong == 0 {
		t.Error("no damage was found by a look-up")
	}
	other := tableBytes(t, "u", decode(t, name(0, 1, 0), packs))
	look("a table of another name", other)
	copy(good, other[:4096])
	look("a block of another table", good)
	if _, err := index.OpenTable(bytes.NewReader(other), int64(len(other)), index.NewAuth([32]byte{9}), "u"); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
}

// failing fails to read below an offset.
type failing struct {
	io.ReaderAt
	below int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off < f.below {
		return 0, io.ErrUnexpectedEOF
	}
	return f.ReaderAt.ReadAt(p, off)
}

// TestUnreadableTable loses the blocks of a table after it was opened.
func TestUnreadableTable(t *testing.T) {
	packs := randomPacks(rand.New(rand.NewPCG(2, 9)), 2, 100)
	b := tableBytes(t, "t", decode(t, name(0, 1, 0), packs))
	f := &failing{ReaderAt: bytes.NewReader(b)}
	tab, err := index.OpenTable(f, int64(len(b)), newAuth(), "t")
	if err != nil {
		t.Fatal(err)
	}
	f.below = int64(len(b))
	s := index.NewSet(tab)
	if _, err := s.Find(packs[0].Entries[0].ID); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("find: %v", err)
	}
	if _, _, err := s.Ordinal(packs[0].Entries[0].ID); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("ordinal: %v", err)
	}
	if _, err := s.Scan(); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("scan: %v", err)
	}
	if _, err := index.NewTable(tab); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("merge: %v", err)
	}
	for _, err := range index.Merge(ondisk.MaxSegment, nil, nil, tab) {
		if !errors.Is(err, index.ErrDamaged) {
			t.Errorf("cut: %v", err)
		}
	}
	f.below = 0
	scan, err := s.Scan()
	if err != nil {
		t.Fatal(err)
	}
	f.below = int64(len(b))
	for _, err := range scan.Chunks() {
		if !errors.Is(err, index.ErrDamaged) {
			t.Errorf("chunks: %v", err)
		}
	}
}

// FuzzOpenTable opens what may be a table, with a valid tag on its tail if the
// fuzzer wishes: a fuzzer does not guess one.
func FuzzOpenTable(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 9))
	f.Add([]byte{}, true)
	for _, n := range []int{0, 1, 100} {
		b := tableBytes(f, "t", decode(f, name(0, 1, 0), randomPacks(rng, 2, n)))
		f.Add(b, false)
		f.Add(b, true)
		binary.LittleEndian.PutUint64(b[len(b)-52:], 1<<40) // records
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			b = index.SignTail(newAuth(), "t", b)
		}
		tab, err := open(b, "t")
		if err != nil {
			if !errors.Is(err, index.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		s := index.NewSet(tab)
		for _, id := range []ondisk.ID{{}, {1}, {255}} {
			if _, err := s.Find(id); err != nil && !errors.Is(err, index.ErrDamaged) {
				t.Fatal(err)
			}
		}
		scan, err := s.Scan()
		if err != nil {
			if !errors.Is(err, index.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		for _, err := range scan.Chunks() {
			if err != nil && !errors.Is(err, index.ErrDamaged) {
				t.Fatal(err)
			}
		}
	})
}

// million makes a table file of a million chunks, as small files of the usual
// kind leave them: 32 in a pack.
func million(tb testing.TB, n int) (*index.Table, []ondisk.ID) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(7, 7))
	path := filepath.Join(tb.TempDir(), "table")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	var runs []index.Run
	var ids []ondisk.ID
	for at := 0; n > 0; at++ {
		k := min(n, 100_000)
		n -= k
		packs := randomPacks(rng, k/32, 32)
		for _, p := range packs {
			ids = append(ids, p.Entries[0].ID)
		}
		runs = append(runs, decode(tb, name(0, byte(at), 0), packs)) // few
	}
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
	return t, ids
}

// TestMemory measures what a table of a million chunks takes besides its file,
// after every kind of look-up.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("a million chunks take a second")
	}
	heap := func() int64 {
		debug.FreeOSMemory()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) // far below
	}
	const n = 1_000_000
	// What the test itself keeps is made before and counts twice.
	_, ids := million(t, n)
	before := heap()
	tab, _ := million(t, n)
	s := index.NewSet(tab)
	for i, id := range ids {
		if places, err := s.Find(id); err != nil || len(places) != 1 {
			t.Fatalf("%+v, %v", places, err)
		}
		id[0] ^= byte(1 + i%255)
		if places, err := s.Find(id); err != nil || len(places) != 0 {
			t.Fatalf("%+v, %v", places, err)
		}
	}
	took := heap() - before
	t.Logf("%d chunks, %d bytes of heap: %.2f a chunk", tab.Len(), took, float64(took)/n)
	if took > 2*n {
		t.Errorf("%d bytes of heap, 2 MB are allowed", took)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(ids)
}

func benchmark(b *testing.B, memory bool, change byte) {
	tab, ids := million(b, 1_000_000)
	if memory {
		var err error
		if tab, err = index.NewTable(tab); err != nil {
			b.Fatal(err)
		}
	}
	s := index.NewSet(tab)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		id := ids[rng.IntN(len(ids))]
		id[12] ^= change
		if places, err := s.Find(id); err != nil || (len(places) == 1) != (change == 0) {
			b.Fatal(places, err)
		}
	}
}

// The look-ups of a table of a million chunks:
//
//	go test ./internal/index -run '^$' -bench 'Hit|Miss' -benchtime 100000x
func BenchmarkHitFile(b *testing.B)    { benchmark(b, false, 0) }
func BenchmarkMissFile(b *testing.B)   { benchmark(b, false, 1) }
func BenchmarkHitMemory(b *testing.B)  { benchmark(b, true, 0) }
func BenchmarkMissMemory(b *testing.B) { benchmark(b, true, 1) }

// BenchmarkBuild merges eight segments of 16384 chunks into a file, what a
// process does when it opens a repository.
func BenchmarkBuild(b *testing.B) {
	const segments, chunks = 8, 16 << 10
	rng := rand.New(rand.NewPCG(8, 8))
	var runs []index.Run
	for n := range segments {
		runs = append(runs, decode(b, name(0, byte(n), 0), randomPacks(rng, chunks/32, 32))) // few
	}
	var size int64
	b.ReportAllocs()
	for b.Loop() {
		var w counter
		if err := index.WriteTable(&w, newAuth(), "t", runs...); err != nil {
			b.Fatal(err)
		}
		size = int64(w)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(segments*chunks), "ns/chunk")
	b.ReportMetric(float64(size)/(segments*chunks), "disk-B/chunk")
}

// counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// TestEqualKeys makes filters of ids that differ where filters do not look.
func TestEqualKeys(t *testing.T) {
	p := index.Pack{PackInfo: index.PackInfo{Size: 1 << 20}}
	for i := range 300 {
		e := pack.Entry{Kind: ondisk.KindData, Offset: uint32(i)} // small
		e.ID[0], e.ID[30], e.ID[31] = byte(i%3), 1, byte(i)       // many of one fence, and of one key
		binary.BigEndian.PutUint16(e.ID[20:], uint16(i))          // small
		p.Entries = append(p.Entries, e)
	}
	packs := []index.Pack{p}
	newModel(packs).check(t, index.NewSet(file(t, decode(t, name(0, 0, 0), packs))))
}
