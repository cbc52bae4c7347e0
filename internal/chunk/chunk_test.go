// SPDX-License-Identifier: Apache-2.0

package chunk_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/chunk"
)

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func table() *chunk.Table { return chunk.NewTable(random(99, chunk.TableSize)) }

// cut is the reference: Cut on the whole rest, again and again.
func cut(t *chunk.Table, b []byte) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		n := t.Cut(b)
		out = append(out, b[:n])
		b = b[n:]
	}
	return out
}

func each(t *chunk.Table, r io.Reader, size int) ([][]byte, int64, error) {
	var out [][]byte
	n, err := t.Each(r, make([]byte, size), func(c []byte) error {
		out = append(out, bytes.Clone(c))
		return nil
	})
	return out, n, err
}

func TestSizes(t *testing.T) {
	tab := table()
	data := random(1, 64<<20)
	chunks := cut(tab, data)
	for i, c := range chunks {
		if len(c) > chunk.Max || len(c) <= chunk.Min && i < len(chunks)-1 {
			t.Errorf("chunk %d has %d bytes", i, len(c))
		}
	}
	if avg := len(data) / len(chunks); avg < chunk.Avg*3/4 || avg > chunk.Avg*5/4 {
		t.Errorf("%d chunks of %d bytes on average, want about %d", len(chunks), avg, chunk.Avg)
	}
	for _, c := range cut(tab, make([]byte, 3*chunk.Max+5))[:3] {
		if len(c) > chunk.Max {
			t.Errorf("a chunk of zeros has %d bytes", len(c))
		}
	}
}

// fragments reads in pieces of random sizes, which differ from call to call.
type fragments struct {
	r   io.Reader
	rng *rand.Rand
}

func (f fragments) Read(p []byte) (int, error) {
	return f.r.Read(p[:min(len(p), 1+f.rng.IntN(1<<f.rng.IntN(22)))])
}

func TestEachEqualsCut(t *testing.T) {
	tab := table()
	rng := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{0, 1, chunk.Min - 1, chunk.Min, chunk.Min + 1, chunk.Avg, chunk.Max - 1, chunk.Max, chunk.Max + 1, 2 * chunk.Max, 3*chunk.Max + 7, 17 << 20} {
		for name, data := range map[string][]byte{"random": random(byte(n), n), "zeros": make([]byte, n)} {
			want := cut(tab, data)
			for how, wrap := range map[string]func(io.Reader) io.Reader{
				"whole": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
				"fragments": func(r io.Reader) io.Reader { return fragments{r, rng} },
			} {
				for _, size := range []int{2 * chunk.Max, 2*chunk.Max + 4097} {
					got, total, err := each(tab, wrap(bytes.NewReader(data)), size)
					if err != nil || total != int64(n) || !slices.EqualFunc(got, want, bytes.Equal) {
						t.Errorf("%d bytes %s, read %s: %d chunks with %d bytes, want %d: %v", n, name, how, len(got), total, len(want), err)
					}
				}
			}
		}
	}
	data := random(3, chunk.Max+chunk.Min)
	if got, _, err := each(tab, iotest.OneByteReader(bytes.NewReader(data)), 2*chunk.Max); err != nil || !slices.EqualFunc(got, cut(tab, data), bytes.Equal) {
		t.Errorf("byte by byte: %d chunks, %v", len(got), err)
	}
}

func TestEachErrors(t *testing.T) {
	tab, boom := table(), errors.New("boom")
	data := random(1, 6<<20)
	chunks, n, err := each(tab, io.MultiReader(bytes.NewReader(data), iotest.ErrReader(boom)), 2*chunk.Max)
	if !errors.Is(err, boom) || n > int64(len(data)) || !bytes.HasPrefix(data, bytes.Join(chunks, nil)) || int64(len(bytes.Join(chunks, nil))) != n {
		t.Errorf("failing reader: %d bytes, %v", n, err)
	}
	if n, err := tab.Each(bytes.NewReader(data), make([]byte, 2*chunk.Max), func([]byte) error { return boom }); !errors.Is(err, boom) || n != 0 {
		t.Errorf("failing function: %d bytes, %v", n, err)
	}
	if _, _, err := each(tab, iotest.TimeoutReader(fragments{bytes.NewReader(data), rand.New(rand.NewPCG(1, 1))}), 2*chunk.Max); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("time-out: %v", err)
	}
}

// stuck never returns anything, which io.Reader discourages but allows.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestReaderWithoutProgress(t *testing.T) {
	if _, _, err := each(table(), stuck{}, 2*chunk.Max); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

// TestInsertionIsLocal checks that boundaries come back after a change.
func TestInsertionIsLocal(t *testing.T) {
	tab := table()
	data := random(2, 48<<20)
	known := map[[32]byte]bool{}
	for _, c := range cut(tab, data) {
		known[blake3.Sum256(c)] = true
	}
	for name, changed := range map[string][]byte{
		"insertion": slices.Insert(slices.Clone(data), 20<<20, []byte("some bytes")...),
		"removal":   slices.Delete(slices.Clone(data), 20<<20, 20<<20+10),
		"in front":  slices.Insert(slices.Clone(data), 0, 'x'),
	} {
		fresh := 0
		for _, c := range cut(tab, changed) {
			if !known[blake3.Sum256(c)] {
				fresh++
			}
		}
		if fresh > 5 {
			t.Errorf("%s: %d chunks are new", name, fresh)
		}
	}
	other := chunk.NewTable(random(100, chunk.TableSize))
	same := 0
	for _, c := range cut(other, data) {
		if known[blake3.Sum256(c)] {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d chunks are the same under another key", same)
	}
}

func FuzzEach(f *testing.F) {
	f.Add([]byte("seed"), uint32(5<<20), uint64(1))
	f.Add([]byte{0}, uint32(9<<20), uint64(2))
	f.Add([]byte{}, uint32(0), uint64(3))
	f.Add(random(1, 1000), uint32(1<<20), uint64(4))
	tab := table()
	buf := make([]byte, 2*chunk.Max)
	f.Fuzz(func(t *testing.T, pattern []byte, size uint32, seed uint64) {
		if len(pattern) == 0 {
			size = 0
		}
		data := make([]byte, size%(12<<20))
		for i := 0; i < len(data); i += len(pattern) {
			copy(data[i:], pattern)
		}
		want, i := cut(tab, data), 0
		n, err := tab.Each(fragments{bytes.NewReader(data), rand.New(rand.NewPCG(seed, 0))}, buf, func(c []byte) error {
			if i >= len(want) || !bytes.Equal(c, want[i]) {
				t.Fatalf("chunk %d differs", i)
			}
			i++
			return nil
		})
		if err != nil || n != int64(len(data)) || i != len(want) {
			t.Fatalf("%d of %d chunks with %d of %d bytes, %v", i, len(want), n, len(data), err)
		}
	})
}

func BenchmarkCut(b *testing.B) {
	tab, data := table(), random(1, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[tab.Cut(rest):]
		}
	}
}
