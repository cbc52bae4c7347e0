// SPDX-License-Identifier: Apache-2.0

package chunk_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

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

// write passes data to a cutter in pieces of random sizes, which differ from
// call to call.
func write(c *chunk.Cutter, rng *rand.Rand, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), 1+rng.IntN(1<<rng.IntN(24)))
		if err := c.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
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

// TestCutterEqualsCut passes several streams to one cutter.
func TestCutterEqualsCut(t *testing.T) {
	tab := table()
	rng := rand.New(rand.NewPCG(5, 5))
	var got [][]byte
	c := chunk.NewCutter(tab, func(b []byte) error {
		got = append(got, bytes.Clone(b))
		return nil
	})
	for _, n := range []int{0, 1, chunk.Min - 1, chunk.Min, chunk.Min + 1, chunk.Avg, chunk.Max - 1, chunk.Max, chunk.Max + 1, 2 * chunk.Max, 3*chunk.Max + 7, 17 << 20} {
		for name, data := range map[string][]byte{"random": random(byte(n), n), "zeros": make([]byte, n)} {
			for range 4 {
				got = got[:0]
				if err := errors.Join(write(c, rng, data), c.Flush()); err != nil {
					t.Fatal(err)
				}
				if want := cut(tab, data); !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("%d bytes %s: %d chunks, want %d", n, name, len(got), len(want))
				}
				if len(c.Rest()) > 0 {
					t.Errorf("%d bytes %s: something is left", n, name)
				}
			}
		}
	}
}

// TestCutterRest takes back what was not cut.
func TestCutterRest(t *testing.T) {
	tab := table()
	data := random(3, 20<<20)
	rng := rand.New(rand.NewPCG(6, 6))
	for range 30 {
		var got []byte
		c := chunk.NewCutter(tab, func(b []byte) error {
			got = append(got, b...)
			return nil
		})
		part := data[:rng.IntN(len(data))]
		if err := write(c, rng, part); err != nil {
			t.Fatal(err)
		}
		rest := c.Rest()
		if !bytes.Equal(append(got, rest...), part) || len(rest) >= chunk.Max {
			t.Errorf("of %d bytes, %d were cut and %d are left", len(part), len(got), len(rest))
		}
	}
}

func TestCutterErrors(t *testing.T) {
	boom := errors.New("boom")
	c := chunk.NewCutter(table(), func([]byte) error { return boom })
	if err := c.Write(random(1, 6<<20)); !errors.Is(err, boom) {
		t.Errorf("write: %v", err)
	}
	if err := c.Flush(); !errors.Is(err, boom) {
		t.Errorf("flush: %v", err)
	}
}

// TestPaged knows what real programs write, and not what only looks a little
// like it.
func TestPaged(t *testing.T) {
	head := func(parts map[int]string) []byte {
		b := random(7, chunk.Head)
		for off, s := range parts {
			copy(b[off:], s)
		}
		return b
	}
	pg := func(lower, version string) string {
		return "\x00\x00\x00\x00\x28\x5f\x9d\x01\x00\x00\x04\x00" + lower + "\x80\x1e\x00\x20" + version
	}
	page := pg("\x40\x00", "\x04\x20")
	for _, tc := range []struct {
		name string
		head []byte
		want bool
	}{
		{"SQLite", head(map[int]string{0: "SQLite format 3\x00\x10\x00"}), true},
		{"SQLite, 64 KiB", head(map[int]string{0: "SQLite format 3\x00\x00\x01"}), true},
		{"about SQLite", head(map[int]string{0: "SQLite format 3\x00is the string"}), false},
		{"InnoDB", head(map[int]string{4: "\x00\x00\x00\x00", 24: "\x00\x08", 34: "\x00\x00\x00\x07\x00\x00\x00\x07"}), true},
		{"InnoDB, another page", head(map[int]string{4: "\x00\x00\x00\x01", 24: "\x00\x08", 34: "\x00\x00\x00\x07\x00\x00\x00\x07"}), false},
		{"PostgreSQL", head(map[int]string{0: page, 8192: page}), true},
		{"one page of PostgreSQL", head(map[int]string{0: page}), false},
		{"PostgreSQL, disordered", head(map[int]string{0: page, 8192: pg("\x40\x1f", "\x04\x20")}), false},
		{"PostgreSQL, unknown version", head(map[int]string{0: page, 8192: pg("\x40\x00", "\x05\x20")}), false},
		{"ext4", head(map[int]string{1028: "\x00\x00\x10\x00", 1048: "\x02\x00\x00\x00", 1080: "\x53\xef", 1100: "\x01\x00\x00\x00"}), true},
		{"not ext4", head(map[int]string{1048: "\x02\x01\x00\x00", 1080: "\x53\xef", 1100: "\x01\x00\x00\x00"}), false},
		{"XFS", head(map[int]string{0: "XFSB"}), true},
		{"btrfs", head(map[int]string{64<<10 + 64: "_BHRfS_M"}), true},
		{"GPT", head(map[int]string{512: "EFI PART"}), true},
		{"noise", head(nil), false},
		{"text", bytes.Repeat([]byte("some text\n"), 8<<10), false},
		{"zeros", make([]byte, chunk.Head), false},
		{"nothing", nil, false},
	} {
		if got := chunk.Paged(tc.head); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
		for n := range min(2000, len(tc.head)) {
			_ = chunk.Paged(tc.head[:n]) // must not panic
		}
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

// FuzzCutter compares a stream in pieces with all of it at once. The table ends
// chunks at half of all bytes, so that little content has several of them.
func FuzzCutter(f *testing.F) {
	f.Add([]byte("seed"), uint32(900<<10), uint64(1))
	f.Add([]byte{0}, uint32(chunk.Min), uint64(2))
	f.Add([]byte{0xff}, uint32(1<<20-1), uint64(2))
	f.Add([]byte{}, uint32(0), uint64(3))
	f.Add(random(1, 1000), uint32(700<<10), uint64(4))
	tab := table()
	for i := range len(tab) / 2 {
		tab[i] = 0
	}
	var want [][]byte
	i := 0
	differs := false
	c := chunk.NewCutter(tab, func(b []byte) error {
		differs = differs || i >= len(want) || !bytes.Equal(b, want[i])
		i++
		return nil
	})
	buf := make([]byte, 1<<20)
	f.Fuzz(func(t *testing.T, pattern []byte, size uint32, seed uint64) {
		if len(pattern) == 0 {
			size = 0
		}
		data := buf[:int(size)%len(buf)]
		for n := copy(data, pattern); n > 0 && n < len(data); n *= 2 {
			copy(data[n:], data[:n])
		}
		want, i, differs = cut(tab, data), 0, false
		if err := errors.Join(write(c, rand.New(rand.NewPCG(seed, 0)), data), c.Flush()); err != nil || differs || i != len(want) {
			t.Fatalf("%d of %d chunks, another one: %t, %v", i, len(want), differs, err)
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
