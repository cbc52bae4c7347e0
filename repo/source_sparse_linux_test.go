// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHoles stores sparse files: holes are neither read nor stored.
func TestHoles(t *testing.T) {
	const mib = 1 << 20
	dir := t.TempDir()
	large := random(1, mib)
	files := map[string]struct {
		size int64
		data map[int64][]byte
	}{
		"only a hole":         {64 << 30, nil},
		"hole in front":       {30*mib + 5, map[int64][]byte{30 * mib: []byte("hello")}},
		"hole at the end":     {300 * mib, map[int64][]byte{0: random(2, 4096)}},
		"hole in between":     {1 << 40, map[int64][]byte{0: random(3, 8192), 1<<40 - 4096: random(4, 4096)}},
		"data in between":     {20 * mib, map[int64][]byte{8 * mib: large}},
		"small":               {100_000, map[int64][]byte{50_000: []byte("x")}},
		"small, only a hole":  {100_000, nil},
		"one byte of hole":    {1, nil},
		"65 extents and more": {200 * 64 << 10, nil},
	}
	for name, f := range files {
		p := filepath.Join(dir, name)
		put(t, dir, name, nil)
		if err := os.Truncate(p, f.size); err != nil {
			t.Fatal(err)
		}
		if name == "65 extents and more" {
			f.data = map[int64][]byte{}
			for i := range int64(100) {
				f.data[i*128<<10] = random(uint64(i), 4096)
			}
			files[name] = f
		}
		for off, data := range f.data {
			if err := writeAt(p, data, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, b := newRepo(t)
	p := write(t, r, "p", dir)
	if p.Stats.New > 3*mib || p.Stats.Bytes < 1<<40 {
		t.Errorf("stats %+v", p.Stats)
	}
	again := reopen(t, b)
	healthy(t, again, 1)
	tr, err := again.Tree(t.Context(), p, "v")
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range files {
		e, err := tr.Entry(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if e.Size != f.size {
			t.Errorf("%s: %d bytes, want %d", name, e.Size, f.size)
		}
		got := map[int64]byte{} // bytes that are not zero
		var off, holes int64
		for s, err := range tr.Slices(t.Context(), e) {
			if err != nil || s.Offset != off {
				t.Fatalf("%s: slice %+v at %d, %v", name, s, off, err)
			}
			if off += s.Length; s.Hole {
				holes += s.Length
				continue
			}
			data, err := tr.ReadSlice(t.Context(), s)
			if err != nil || int64(len(data)) != s.Length {
				t.Fatalf("%s: %d bytes at %d, %v", name, len(data), s.Offset, err)
			}
			for i, c := range data {
				if c != 0 {
					got[s.Offset+int64(i)] = c
				}
			}
		}
		var stored int64
		for at, data := range f.data {
			stored += int64(len(data))
			for i, c := range data {
				if c != got[at+int64(i)] {
					t.Fatalf("%s: byte %d is %d, want %d", name, at+int64(i), got[at+int64(i)], c)
				}
				delete(got, at+int64(i))
			}
		}
		if len(got) > 0 {
			t.Errorf("%s: %d bytes out of nowhere", name, len(got))
		}
		if f.size > 1000 && f.size-holes > stored+2*16<<10*int64(len(f.data)+1) {
			t.Errorf("%s: %d bytes of %d are data, want about %d", name, f.size-holes, f.size, stored)
		}
	}
	e, err := tr.Entry(t.Context(), "hole in front")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if n, err := tr.WriteTo(t.Context(), &buf, e); err != nil || n != e.Size || !strings.HasSuffix(buf.String(), "\x00hello") {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestManyExtents stores a file of 5,000 extents, changes one of them, and
// stores it again.
func TestManyExtents(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	for i := range int64(5000) {
		if i == 0 {
			put(t, dir, "file", nil)
		}
		if err := writeAt(name, random(uint64(i), 4096), i*8192); err != nil {
			t.Fatal(err)
		}
	}
	r, b := newRepo(t)
	first := write(t, r, "one", dir)
	if err := writeAt(name, []byte("changed"), 2500*8192); err != nil {
		t.Fatal(err)
	}
	second := write(t, r, "two", dir)
	if second.Stats.New > 200<<10 || first.Stats.New < 20_000_000 {
		t.Errorf("new in the first: %d, in the second: %d", first.Stats.New, second.Stats.New)
	}
	again := reopen(t, b)
	healthy(t, again, 2)
	if diff := cmp.Diff(onDisk(t, dir), contents(t, again, second)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
