// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stillpoint-go/protect/repo"
)

// device counts what is read of a volume.
type device struct {
	io.ReaderAt
	read  atomic.Int64
	pages map[int64]bool // that were read
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.ReaderAt.ReadAt(p, off)
	d.read.Add(int64(n))
	if d.pages != nil {
		for i := off / (16 * kib); i*16*kib < off+int64(n); i++ {
			d.pages[i] = true
		}
	}
	return n, err
}

func blocks(tb testing.TB, r *repo.Repository, id string, d io.ReaderAt, size int, opts *repo.BlockOptions) (*repo.Point, error) {
	tb.Helper()
	return r.Write(tb.Context(), repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.PutBlocks(ctx, "v", d, int64(size), opts)
	})
}

// TestChangedBlocks stores generations of a volume that grows and shrinks, by
// the map of its changes: only these are read.
func TestChangedBlocks(t *testing.T) {
	rounds := 4
	if *long {
		rounds = 50
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range rounds {
		rng := rand.New(rand.NewPCG(seed, uint64(round)))
		r, b := newRepo(t)
		data := make([]byte, 8*mib+rng.IntN(mib))
		fill(rng, data)
		if _, err := blocks(t, r, "0", bytes.NewReader(data), len(data), nil); err != nil {
			t.Fatal(err)
		}
		for gen := 1; gen < 12; gen++ {
			var changed []repo.Range
			allowed := map[int64]bool{}
			note := func(off, n int) {
				changed = append(changed, repo.Range{Offset: int64(off), Length: int64(n)})
			}
			was := len(data)
			switch rng.IntN(4) {
			case 0:
				more := make([]byte, 1+rng.IntN(2*mib))
				fill(rng, more)
				data = append(data, more...)
			case 1:
				data = data[:max(mib+1, len(data)-rng.IntN(mib))]
			}
			for range rng.IntN(40) {
				off := rng.IntN(min(was, len(data)))
				n := min(1+rng.IntN(1<<rng.IntN(18)), len(data)-off)
				if rng.IntN(4) == 0 {
					clear(data[off : off+n])
				} else {
					fill(rng, data[off:off+n])
				}
				if half := n / 2; half > 0 && rng.IntN(2) == 0 { // overlapping and adjacent
					note(off, half)
					note(max(0, off+half-rng.IntN(2)), n-half+min(1, len(data)-off-n))
				} else {
					note(off, n)
				}
			}
			rng.Shuffle(len(changed), func(i, j int) { changed[i], changed[j] = changed[j], changed[i] })
			for _, c := range append(changed, repo.Range{Offset: int64(min(was, len(data))), Length: max(0, int64(len(data)-was))}) {
				for i := c.Offset / (16 * kib); i*16*kib < c.Offset+c.Length; i++ {
					allowed[i] = true
				}
			}
			d := &device{ReaderAt: bytes.NewReader(data), pages: map[int64]bool{}}
			p, err := blocks(t, r, fmt.Sprint(gen), d, len(data), &repo.BlockOptions{Parent: fmt.Sprint(gen - 1), Changed: changed})
			if err != nil {
				t.Fatalf("round %d, generation %d: %v", round, gen, err)
			}
			if gen%4 == 0 {
				r = reopen(t, b)
			}
			if !bytes.Equal(content(t, r, p, "."), data) {
				t.Fatalf("round %d, generation %d: content differs", round, gen)
			}
			if n := pieces(t, r, p); n > 17 { // a slice may cross into the megabyte
				t.Errorf("round %d, generation %d: a megabyte of %d pieces", round, gen, n)
			}
			extra := 0
			for page := range d.pages {
				if !allowed[page] && page != int64(was)/(16*kib) && page != int64(len(data))/(16*kib) { // short pages
					extra++
				}
			}
			// Samples are rare. There is nothing to store once more at first.
			if limit := 8 + 3*len(allowed); extra > limit || gen < 2 && extra > 8 {
				t.Errorf("round %d, generation %d: %d pages of %d were read besides %d", round, gen, extra, len(data)/16/kib, len(allowed))
			}
		}
		healthy(t, reopen(t, b), 12)
	}
}

// TestWrongMap leaves changes out of the map.
func TestWrongMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	data := make([]byte, 32*mib)
	fill(rng, data)
	clear(data[20*mib : 24*mib])
	r, _ := newRepo(t)
	if _, err := blocks(t, r, "0", bytes.NewReader(data), len(data), nil); err != nil {
		t.Fatal(err)
	}
	good := bytes.Clone(data)
	for name, change := range map[string]func(data []byte){
		"one page":  func(d []byte) { d[5*mib]++ },
		"the last":  func(d []byte) { d[len(d)-1]++ },
		"the first": func(d []byte) { d[0]++ },
		"of zeros":  func(d []byte) { d[22*mib+7]++ },
		"to zeros":  func(d []byte) { clear(d[3*mib : 4*mib]) },
	} {
		copy(data, good)
		change(data)
		_, err := blocks(t, r, name, bytes.NewReader(data), len(data), &repo.BlockOptions{Parent: "0", Sample: 1})
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "offset") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A map that leaves all of 2048 pages out gets past this once in 10^14.
	fill(rng, data)
	if _, err := blocks(t, r, "all", bytes.NewReader(data), len(data), &repo.BlockOptions{Parent: "0", Sample: 64}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a map without any of the changes: %v", err)
	}
	copy(data, good)
	d := &device{ReaderAt: bytes.NewReader(data)}
	p, err := blocks(t, r, "right", d, len(data), &repo.BlockOptions{Parent: "0", Sample: 1})
	if err != nil || d.read.Load() < 28*mib || !bytes.Equal(content(t, r, p, "."), data) {
		t.Errorf("the right map: %d bytes read, %v", d.read.Load(), err)
	}
}

func TestBlockOptions(t *testing.T) {
	data := random(1, 2*mib)
	r, _ := newRepo(t)
	if _, err := blocks(t, r, "0", bytes.NewReader(data), len(data), nil); err != nil {
		t.Fatal(err)
	}
	all := func(r ...repo.Range) []repo.Range { return r }
	for name, tc := range map[string]struct {
		size int
		opts *repo.BlockOptions
		want error
	}{
		"another parent":       {2 * mib, &repo.BlockOptions{Parent: "x"}, fs.ErrInvalid},
		"map without a parent": {2 * mib, &repo.BlockOptions{Changed: all(repo.Range{Length: 1})}, fs.ErrInvalid},
		"negative offset":      {2 * mib, &repo.BlockOptions{Parent: "0", Changed: all(repo.Range{Offset: -1, Length: 5})}, fs.ErrInvalid},
		"empty range":          {2 * mib, &repo.BlockOptions{Parent: "0", Changed: all(repo.Range{})}, fs.ErrInvalid},
		"beyond the end":       {2 * mib, &repo.BlockOptions{Parent: "0", Changed: all(repo.Range{Offset: 2 * mib, Length: 1})}, fs.ErrInvalid},
		"overflow":             {2 * mib, &repo.BlockOptions{Parent: "0", Changed: all(repo.Range{Offset: 1, Length: 1<<63 - 1})}, fs.ErrInvalid},
		"negative sample":      {2 * mib, &repo.BlockOptions{Sample: -1}, fs.ErrInvalid},
		"negative size":        {-1, nil, fs.ErrInvalid},
		"too short":            {2*mib + 1, nil, io.ErrUnexpectedEOF},
		"too short for a map":  {2*mib + 1, &repo.BlockOptions{Parent: "0"}, io.ErrUnexpectedEOF},
	} {
		if _, err := blocks(t, r, name, bytes.NewReader(data), tc.size, tc.opts); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is behind the end of a file is no hole.
	name := filepath.Join(t.TempDir(), "volume")
	put(t, filepath.Dir(name), "volume", data)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{2*mib + 1, 5 * mib} {
		if _, err := blocks(t, r, fmt.Sprint("a file of less than ", size), f, size, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a file of less than %d bytes: %v", size, err)
		}
	}
	shrunk := bytes.NewReader(data[:mib]) // which nobody reads if there is a map
	if _, err := blocks(t, r, "shrunk", shrunk, len(data), &repo.BlockOptions{Parent: "0", Sample: 1 << 30}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shrunk, and the map does not say so: %v", err)
	}
	// A map for a volume that the parent does not have is not used.
	d := &device{ReaderAt: bytes.NewReader(data)}
	p, err := r.Write(t.Context(), repo.WriteOptions{ID: "other", Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		if w.Parent().ID != "0" {
			t.Errorf("parent %q", w.Parent().ID)
		}
		return errors.Join(w.PutBlocks(ctx, "other", d, 2*mib, &repo.BlockOptions{Parent: "0"}), w.PutBlocks(ctx, "empty", d, 0, nil))
	})
	if err != nil || d.read.Load() > 2*mib+16*kib || p.Stats.Bytes != 2*mib {
		t.Errorf("%d bytes read, %+v, %v", d.read.Load(), p, err)
	}
}

// TestBlockHoles stores a volume with holes, which are not read, and without,
// where zeros are not stored.
func TestBlockHoles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "volume")
	put(t, filepath.Dir(name), "volume", nil)
	const size = 1 << 33
	data := random(3, 64*kib)
	if err := errors.Join(os.Truncate(name, size), writeAt(name, data, 5*mib), writeAt(name, data, 1<<32), writeAt(name, data, size-64*kib)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &seeker{device: device{ReaderAt: f}, Seeker: f}
	r, _ := newRepo(t)
	p, err := blocks(t, r, "0", d, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := d.read.Load(); n > 64*3*kib*2 || p.Stats.New > 260*kib || p.Stats.Bytes != size {
		t.Errorf("%d bytes read, %+v", n, p.Stats)
	}
	zeros := bytes.Join([][]byte{data, make([]byte, 9*mib), data, make([]byte, 9*mib), data}, nil)
	r, _ = newRepo(t)
	p, err = blocks(t, r, "1", bytes.NewReader(zeros), len(zeros), nil)
	if err != nil || p.Stats.New > 3*mib+260*kib || !bytes.Equal(content(t, r, p, "."), zeros) {
		t.Errorf("%+v, %v", p, err)
	}
	tr, err := r.Tree(t.Context(), p, "v")
	if err != nil {
		t.Fatal(err)
	}
	e, err := tr.Entry(t.Context(), ".")
	if err != nil {
		t.Fatal(err)
	}
	holes := int64(0)
	for s, err := range tr.Slices(t.Context(), e) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Hole {
			holes += s.Length
		}
	}
	if holes < 16*mib {
		t.Errorf("%d bytes of holes", holes)
	}
}

// TestExactHashes has every page of volumes with holes and odd sizes compared
// with its hash: what a map without any change says must be true.
func TestExactHashes(t *testing.T) {
	const half = 512 * kib
	start, zeros := random(1, 3*half), make([]byte, 70*mib)
	odd := append(bytes.Clone(start), zeros[:100]...)
	for name, generations := range map[string][][]byte{
		"zeros in between":     {bytes.Join([][]byte{start, zeros, start}, nil)},
		"zeros in front":       {append(zeros[:40*mib:40*mib], start...)},
		"an odd size":          {start[:len(start)-77]},
		"zeros that grow":      {odd, append(bytes.Clone(start), zeros[:16*kib]...), append(bytes.Clone(start), zeros[:16*kib+1]...)},
		"zeros that shrink":    {append(bytes.Clone(start), zeros[:16*kib]...), odd, start},
		"shrinks in a page":    {start, start[:len(start)-77], start[:len(start)-78]},
		"grows in a page":      {start[:len(start)-78], start[:len(start)-77], start},
		"becomes too small":    {start, start[:mib-1], start},
		"zeros of a long time": {append(bytes.Clone(start), zeros...), start, append(bytes.Clone(start), zeros...)},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := newRepo(t)
			for i, data := range generations {
				name := filepath.Join(t.TempDir(), "volume")
				if err := writeSparse(name, data, true); err != nil {
					t.Fatal(err)
				}
				f, err := os.Open(name) // its holes are known
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				opts := &repo.BlockOptions{Parent: fmt.Sprint(i-1, " again"), Sample: 1}
				if i == 0 {
					opts = nil
				}
				for _, id := range []string{fmt.Sprint(i), fmt.Sprint(i, " again")} {
					p, err := blocks(t, r, id, f, len(data), opts)
					if err != nil {
						t.Fatalf("point %q: %v", id, err)
					}
					if !bytes.Equal(content(t, r, p, "."), data) {
						t.Fatalf("point %q differs", id)
					}
					if strings.HasSuffix(id, "again") && len(data) >= mib && p.Stats.New > 2*kib { // the entry has the time

						t.Errorf("point %q: %d bytes are new", id, p.Stats.New)
					}
					opts = &repo.BlockOptions{Parent: fmt.Sprint(i), Sample: 1}
				}
			}
			healthy(t, reopen(t, b), 2*len(generations))
		})
	}
}

type seeker struct {
	device
	io.Seeker
}
