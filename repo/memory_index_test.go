// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// indexWriter stores index segments of chunks that do not exist: 32 in a pack.
type indexWriter struct {
	r   *repo.Repository
	rng *rand.ChaCha8
	n   byte        // segments so far
	ids []ondisk.ID // one of each pack
}

func (w *indexWriter) put(tb testing.TB, chunks int) {
	tb.Helper()
	var packs []index.Pack
	for chunks > 0 {
		p := index.Pack{PackInfo: index.PackInfo{Ref: ondisk.PackRef{Seq: uint32(len(packs))}, Size: 40 << 20}} // small
		_, _ = w.rng.Read(p.Ref.Session[:])
		off := uint32(100)
		for range min(chunks, 32) {
			e := pack.Entry{Kind: ondisk.KindData, Offset: off, Sealed: 1 << 20, Plain: 1 << 20}
			_, _ = w.rng.Read(e.ID[:])
			off += e.Sealed
			p.Entries = append(p.Entries, e)
		}
		chunks -= len(p.Entries)
		packs = append(packs, p)
		w.ids = append(w.ids, p.Entries[0].ID)
	}
	w.n++
	if err := w.r.PutSegment(tb.Context(), index.Name{ID: [16]byte{w.n}}, index.Encode(packs)); err != nil {
		tb.Fatal(err)
	}
}

// TestMemoryOfIndex measures what a million chunks take in a process that has
// asked for many of them, with a local cache and without. Most of them are there
// when the process begins, others come in pieces that are unfavourable: each is
// hardly worth a file, or not quite.
func TestMemoryOfIndex(t *testing.T) {
	requirePools(t)
	const n = 1_000_000
	for what, c := range map[string]struct {
		dir   bool
		bytes int64 // allowed for each chunk
	}{"with a local cache": {true, 2}, "without": {false, 56}} {
		t.Run(what, func(t *testing.T) {
			b := repotest.NewBucket(nil)
			r, err := repo.Init(t.Context(), b.Bucket(), key("secret"), nil)
			if err != nil {
				t.Fatal(err)
			}
			w := &indexWriter{r: r, rng: rand.NewChaCha8([32]byte{9})}
			opts := &repo.Options{}
			if c.dir {
				opts.CacheDir = t.TempDir()
			}
			if r, err = repo.Open(t.Context(), b.Bucket(), key("secret"), opts); err != nil {
				t.Fatal(err)
			}
			var heap, bucket int64 // of all, and of what the test itself keeps
			left := n
			for _, size := range sizes() {
				before := liveHeap()
				w.put(t, size)
				bucket += liveHeap() - before
				if heap == 0 {
					heap = before
				}
				left -= size
				if size < 100_000 { // others are there before
					if err := r.Refresh(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i, id := range w.ids {
				if n, err := r.Find(t.Context(), id); n != 1 || err != nil {
					t.Fatalf("chunk %d is in %d places, %v", i, n, err)
				}
				binary.LittleEndian.PutUint32(id[:], uint32(i)) // small
				if n, err := r.Find(t.Context(), id); n != 0 || err != nil {
					t.Fatalf("what is not there is in %d places, %v", n, err)
				}
			}
			took := liveHeap() - heap - bucket
			t.Logf("%d chunks take %d bytes of heap: %.2f each", n-left, took, float64(took)/n)
			if left != 0 || took > c.bytes*n {
				t.Errorf("%d bytes of heap for %d chunks, %d are allowed", took, n-left, c.bytes*n)
			}
			runtime.KeepAlive(w)
			runtime.KeepAlive(b)
			runtime.KeepAlive(r)
		})
	}
}

// sizes are those of the segments: a million chunks in all.
func sizes() []int {
	return slices.Concat(slices.Repeat([]int{150_000}, 4), slices.Repeat([]int{9_000}, 9), []int{8_000},
		slices.Repeat([]int{1_000}, 11), slices.Repeat([]int{60_000}, 5))
}

// liveHeap returns the size of what is in use.
func liveHeap() int64 {
	debug.FreeOSMemory()
	runtime.GC() // pools take two to be empty
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) // far below
}
