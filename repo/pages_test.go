// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stillpoint-go/protect/repo"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// stream stores data as the volume "v" of a new point.
func stream(tb testing.TB, r *repo.Repository, id string, data []byte) *repo.Point {
	tb.Helper()
	p, err := r.Write(tb.Context(), repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.PutStream(ctx, "v", bytes.NewReader(data))
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// content reads a file of volume "v".
func content(tb testing.TB, r *repo.Repository, p *repo.Point, path string) []byte {
	tb.Helper()
	tr, err := r.Tree(tb.Context(), p, "v")
	if err != nil {
		tb.Fatal(err)
	}
	e, err := tr.Entry(tb.Context(), path)
	if err != nil {
		tb.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := tr.WriteTo(tb.Context(), &b, e); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// pieces returns the largest number of slices that a megabyte of a file has.
func pieces(tb testing.TB, r *repo.Repository, p *repo.Point) int {
	tb.Helper()
	tr, err := r.Tree(tb.Context(), p, "v")
	if err != nil {
		tb.Fatal(err)
	}
	e, err := tr.Entry(tb.Context(), ".")
	if err != nil {
		tb.Fatal(err)
	}
	count := map[int64]int{}
	for s, err := range tr.Slices(tb.Context(), e) {
		if err != nil {
			tb.Fatal(err)
		}
		for i := s.Offset / mib; i <= (s.Offset+s.Length-1)/mib && !s.Hole; i++ {
			count[i]++
		}
	}
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	return most
}

// overwrite changes n stretches of size bytes at random multiples of align.
func overwrite(rng *rand.Rand, data []byte, n, size, align int) {
	for range n {
		off := rng.IntN((len(data)-size)/align+1) * align
		fill(rng, data[off:off+size])
	}
}

func fill(rng *rand.Rand, p []byte) {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rng.Uint32())
	}
	_, _ = rand.NewChaCha8(seed).Read(p)
}

// TestAmplification counts what changes of a volume cost to store: what a
// gigabyte scaled down to 64 MiB has of the figures in the README.
func TestAmplification(t *testing.T) {
	for _, tc := range []struct {
		name           string
		n, size, align int
		limit          float64 // of the bytes changed
	}{
		{"10 times 64 KiB", 10, 64 * kib, 4 * kib, 1.5}, // pages at both ends, and hashes
		{"10 times 64 KiB, aligned", 10, 64 * kib, 16 * kib, 1.15},
		{"85 pages of 8 KiB", 85, 8 * kib, 8 * kib, 2.2},
		{"85 pages of 16 KiB", 85, 16 * kib, 16 * kib, 1.1},
		{"nothing", 0, 0, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			data := make([]byte, 64*mib)
			fill(rng, data)
			r, _ := newRepo(t)
			first := stream(t, r, "0", data)
			if over := float64(first.Stats.Stored) / float64(len(data)); over > 1.005 {
				t.Errorf("the first point takes %.3f of the volume", over)
			}
			overwrite(rng, data, tc.n, tc.size, tc.align)
			p := stream(t, r, "1", data)
			t.Logf("%d changed, %d new, %d stored", tc.n*tc.size, p.Stats.New, p.Stats.Stored)
			if limit := tc.limit*float64(tc.n*tc.size) + 8*kib; float64(p.Stats.Stored) > limit {
				t.Errorf("%d bytes stored for %d changed", p.Stats.Stored, tc.n*tc.size)
			}
		})
	}
}

// TestInsertion checks that content of a file that moves is found again, in
// the second and in later generations.
func TestInsertion(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	data := make([]byte, 40*mib)
	fill(rng, data)
	r, _ := newRepo(t)
	stream(t, r, "0", data)
	for i := range 5 {
		off := rng.IntN(len(data))
		data = bytes.Join([][]byte{data[:off], fmt.Append(nil, "inserted ", i), data[off:]}, nil)
		p := stream(t, r, fmt.Sprint(1+i), data)
		if p.Stats.New > 9*mib {
			t.Errorf("insertion %d at %d: %d bytes are new", i, off, p.Stats.New)
		}
		if !bytes.Equal(content(t, r, p, "."), data) {
			t.Fatal("content differs")
		}
	}
}

// TestFragmentation changes pages of a volume over and over: it stays in few
// pieces, and that costs little.
func TestFragmentation(t *testing.T) {
	const generations = 200
	rng := rand.New(rand.NewPCG(3, 3))
	data := make([]byte, 4*mib)
	fill(rng, data)
	copy(data, "SQLite format 3\x00\x10\x00")
	r, _ := newRepo(t)
	stream(t, r, "first", data)
	most, written := 0, int64(0)
	for i := range generations {
		overwrite(rng, data, 6, 4*kib, 4*kib)
		p := stream(t, r, fmt.Sprint(i), data)
		written += p.Stats.New
		n := pieces(t, r, p)
		if most = max(most, n); n > 16 {
			t.Fatalf("generation %d: a megabyte of %d pieces", i, n)
		}
		if i%10 == 0 && !bytes.Equal(content(t, r, p, "."), data) {
			t.Fatalf("generation %d: content differs", i)
		}
	}
	perPage := float64(written) / (generations * 6)
	t.Logf("up to %d pieces, %.1f KiB for each page", most, perPage/kib)
	if most < 16 {
		t.Error("the bound was never reached")
	}
	if perPage > 120*kib {
		t.Errorf("%.1f KiB stored for each page", perPage/kib)
	}
}

// edit applies a random change to the content of a file.
func edit(rng *rand.Rand, data []byte) ([]byte, string) {
	at := func(n int) int { return rng.IntN(n + 1) }
	length := func() int { return 1 + rng.IntN(1<<(1+rng.IntN(21))) }
	cut := func(off, n int) (int, int) { return off, min(n, len(data)-off) }
	switch rng.IntN(9) {
	case 0:
		off, n := cut(at(len(data)), length())
		fill(rng, data[off:off+n])
		return data, "overwrite"
	case 1:
		off := at(len(data))
		in := make([]byte, length())
		fill(rng, in)
		return bytes.Join([][]byte{data[:off], in, data[off:]}, nil), "insert"
	case 2:
		in := make([]byte, length())
		fill(rng, in)
		return append(data, in...), "append"
	case 3:
		return data[:at(len(data))], "truncate"
	case 4:
		off, n := cut(at(len(data)), length())
		clear(data[off : off+n])
		return data, "zero"
	case 5:
		return append(data, make([]byte, length())...), "grow"
	case 6:
		if len(data) < 64*kib {
			return data, "nothing"
		}
		a, b := rng.IntN(len(data)/32/kib)*32*kib, rng.IntN(len(data)/32/kib)*32*kib
		x := bytes.Clone(data[a:min(len(data), a+32*kib)])
		copy(data[a:a+len(x)], data[b:])
		copy(data[b:], x)
		return data, "swap"
	case 7:
		if len(data) > 0 {
			for range 1 + rng.IntN(200) {
				data[rng.IntN(len(data))]++
			}
		}
		return data, "scatter"
	default:
		off, n := cut(at(len(data)), length())
		return append(data[:off:off], data[off+n:]...), "delete"
	}
}

// TestEdits stores generations of files with random edits, in every way that
// there is, and compares each with what was stored.
func TestEdits(t *testing.T) {
	rounds := 6
	if *long {
		rounds = 100
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range rounds {
		rng := rand.New(rand.NewPCG(seed, uint64(round)))
		r, b := newRepo(t)
		dir := t.TempDir()
		data := make([]byte, rng.IntN(6*mib))
		fill(rng, data)
		if rng.IntN(2) == 0 && len(data) > 20 {
			copy(data, "SQLite format 3\x00\x10\x00")
		}
		reuse := repo.Reuse(rng.IntN(3))
		for gen := range 8 {
			name := filepath.Join(dir, "file")
			how := [...]string{"file", "stream", "blocks"}[rng.IntN(3)]
			p, err := r.Write(t.Context(), repo.WriteOptions{ID: fmt.Sprint(gen), Name: "app", Reuse: reuse}, func(ctx context.Context, w *repo.Writer) error {
				switch how {
				case "file":
					if err := writeSparse(name, data, rng.IntN(2) == 0); err != nil {
						return err
					}
					return w.Put(ctx, "v", name)
				case "blocks":
					return w.PutBlocks(ctx, "v", bytes.NewReader(data), int64(len(data)), nil)
				default:
					return w.PutStream(ctx, "v", io.LimitReader(bytes.NewReader(data), int64(len(data))))
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if gen%3 == 0 {
				r = reopen(t, b)
			}
			if !bytes.Equal(content(t, r, p, "."), data) {
				t.Fatalf("round %d, generation %d as %s: content differs", round, gen, how)
			}
			if n := pieces(t, r, p); n > 64 {
				t.Errorf("round %d, generation %d: a megabyte of %d pieces", round, gen, n)
			}
			data = bytes.Clone(data)
			for range 1 + rng.IntN(4) {
				data, _ = edit(rng, data)
			}
		}
		healthy(t, reopen(t, b), 8)
	}
}

// writeSparse writes a file anew, with its zeros as holes if sparse is set.
func writeSparse(name string, data []byte, sparse bool) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	for off := 0; off < len(data); off += 4 * kib {
		page := data[off:min(len(data), off+4*kib)]
		if sparse && len(bytes.Trim(page, "\x00")) == 0 {
			continue
		}
		if _, err := f.WriteAt(page, int64(off)); err != nil {
			return err
		}
	}
	return f.Close()
}
