// SPDX-License-Identifier: Apache-2.0

package ondisk_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

func randomID(rng *rand.Rand) (id ondisk.ID) {
	for id.IsZero() {
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
	}
	return id
}

func randomSlice(rng *rand.Rand) ondisk.Slice {
	if rng.IntN(3) == 0 {
		return ondisk.Slice{Len: 1 + rng.Uint64N(1<<uint(1+rng.IntN(50)))} // small
	}
	off := rng.Uint32N(ondisk.MaxChunk)
	return ondisk.Slice{ID: randomID(rng), Off: off, Len: 1 + rng.Uint64N(uint64(ondisk.MaxChunk-off))}
}

func randomName(rng *rand.Rand) string {
	for {
		b := make([]byte, 1+rng.IntN(12))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if ondisk.ValidName(string(b)) {
			return string(b)
		}
	}
}

func randomEntry(rng *rand.Rand) *ondisk.Entry {
	e := &ondisk.Entry{
		Type: ondisk.EntryType(1 + rng.IntN(4)), // small
		Mode: rng.Uint32N(0o10000), UID: rng.Uint32(), GID: rng.Uint32(),
		ModTime: time.Unix(int64(rng.Uint64())>>rng.IntN(64), rng.Int64N(1e9)).UTC(), // any
	}
	for i := range rng.IntN(4) {
		e.Xattrs = append(e.Xattrs, ondisk.Xattr{Name: fmt.Sprintf("user.%d%s", i, strings.ReplaceAll(randomName(rng), "\x00", "")), Value: []byte(randomName(rng))})
	}
	switch e.Type {
	case ondisk.TypeSymlink:
		e.Target = "../" + strings.ReplaceAll(randomName(rng), "\x00", "")
	case ondisk.TypeLink:
		e.Target = randomName(rng) + "/" + randomName(rng)
	case ondisk.TypeFile:
		if rng.IntN(2) == 0 {
			e.Stat = &ondisk.Stat{Changed: time.Unix(int64(rng.Uint64())>>rng.IntN(64), rng.Int64N(1e9)).UTC(), Inode: rng.Uint64()} // any
		}
		if rng.IntN(4) == 0 {
			e.Size = 1 + rng.Uint64N(1<<62)
			e.Pages = randomPages(rng, e.Size)
			e.Map = &ondisk.Root{ID: randomID(rng), Height: uint8(rng.IntN(ondisk.MaxTreeHeight))} // small
			break
		}
		for range rng.IntN(70) {
			s := randomSlice(rng)
			e.Extents = append(e.Extents, s)
			e.Size += s.Len
		}
		if rng.IntN(2) == 0 {
			e.Hash = randomID(rng)
		}
		if e.Size > 0 && rng.IntN(2) == 0 {
			e.Pages = randomPages(rng, e.Size)
		}
	default: // a directory has nothing more
	}
	return e
}

func randomPages(rng *rand.Rand, size uint64) *ondisk.Pages {
	if rng.IntN(2) == 0 {
		return &ondisk.Pages{Map: &ondisk.Root{ID: randomID(rng), Height: uint8(rng.IntN(ondisk.MaxTreeHeight))}} // small
	}
	p := &ondisk.Pages{}
	for rest := ondisk.PagesLen(size); rest > 0; {
		s := ondisk.Slice{Len: rest}
		if len(p.Extents) < 20 {
			s = randomSlice(rng)
			s.Len = min(s.Len, rest)
		}
		p.Extents = append(p.Extents, s)
		rest -= s.Len
	}
	return p
}

func TestEntryRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 5_000 {
		want := randomEntry(rng)
		if err := want.Validate(); err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		b := ondisk.AppendEntry(nil, want)
		got, err := ondisk.DecodeEntry(b)
		if err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if again := ondisk.AppendEntry(nil, got); !bytes.Equal(b, again) {
			t.Fatalf("printed as %x, then as %x", b, again)
		}
	}
}

// TestWritersAndReadersAgree checks that what a writer may store, a reader
// reads: Validate and DecodeEntry have the same opinion of every entry.
func TestWritersAndReadersAgree(t *testing.T) {
	file := func(change func(*ondisk.Entry)) *ondisk.Entry {
		e := &ondisk.Entry{Type: ondisk.TypeFile, ModTime: time.Unix(0, 0).UTC()}
		change(e)
		return e
	}
	hole := func(n uint64) func(*ondisk.Entry) {
		return func(e *ondisk.Entry) { e.Size, e.Extents = n, []ondisk.Slice{{Len: n}} }
	}
	xattrs := func(n, size int) func(*ondisk.Entry) {
		return func(e *ondisk.Entry) {
			for i := range n {
				e.Xattrs = append(e.Xattrs, ondisk.Xattr{Name: fmt.Sprintf("user.%04d", i), Value: make([]byte, size)})
			}
		}
	}
	of := func(kind ondisk.EntryType, target string) func(*ondisk.Entry) {
		return func(e *ondisk.Entry) { e.Type, e.Target = kind, target }
	}
	tests := []struct {
		name string
		e    *ondisk.Entry
		ok   bool
	}{
		{"empty file", file(func(*ondisk.Entry) {}), true},
		{"largest file", file(hole(1 << 62)), true},
		{"file too large", file(hole(1<<62 + 1)), false},
		{"file much too large", file(hole(math.MaxInt64)), false},
		{"sum overflows", file(func(e *ondisk.Entry) {
			e.Extents = []ondisk.Slice{{Len: 1 << 62}, {Len: 1 << 62}, {Len: 1 << 62}, {Len: 1 << 62}, {Len: 5}}
			e.Size = 5
		}), false},
		{"map too high", file(func(e *ondisk.Entry) { e.Size, e.Map = 1, &ondisk.Root{Height: ondisk.MaxTreeHeight} }), false},
		{"highest map", file(func(e *ondisk.Entry) { e.Size, e.Map = 1, &ondisk.Root{Height: ondisk.MaxTreeHeight - 1} }), true},
		{"map of nothing", file(func(e *ondisk.Entry) { e.Map = &ondisk.Root{} }), false},
		{"largest mode", file(func(e *ondisk.Entry) { e.Mode = 0o7777 }), true},
		{"mode", file(func(e *ondisk.Entry) { e.Mode = 0o10000 }), false},
		{"slice beyond a chunk", file(func(e *ondisk.Entry) {
			e.Size, e.Extents = 2, []ondisk.Slice{{ID: ondisk.ID{1}, Off: ondisk.MaxChunk - 1, Len: 2}}
		}), false},
		{"slice up to the end of a chunk", file(func(e *ondisk.Entry) {
			e.Size, e.Extents = 2, []ondisk.Slice{{ID: ondisk.ID{1}, Off: ondisk.MaxChunk - 2, Len: 2}}
		}), true},
		{"empty slice", file(func(e *ondisk.Entry) { e.Extents = []ondisk.Slice{{}} }), false},
		{"128 attributes", file(xattrs(128, 1)), true},
		{"129 attributes", file(xattrs(129, 1)), false},
		{"large attribute", file(xattrs(1, 64<<10-9)), true},
		{"attribute too large", file(xattrs(1, 64<<10-8)), false},
		{"attribute of the largest size of Linux", file(xattrs(1, 64<<10)), false},
		{"longest attribute name", file(func(e *ondisk.Entry) { e.Xattrs = []ondisk.Xattr{{Name: strings.Repeat("x", 255)}} }), true},
		{"attribute name", file(func(e *ondisk.Entry) { e.Xattrs = []ondisk.Xattr{{Name: strings.Repeat("x", 256)}} }), false},
		{"attributes out of order", file(func(e *ondisk.Entry) { e.Xattrs = []ondisk.Xattr{{Name: "b"}, {Name: "a"}} }), false},
		{"long symlink", file(of(ondisk.TypeSymlink, strings.Repeat("x", ondisk.MaxLink))), true},
		{"symlink too long", file(of(ondisk.TypeSymlink, strings.Repeat("x", ondisk.MaxLink+1))), false},
		{"link", file(of(ondisk.TypeLink, "a/b")), true},
		{"link to the longest path", file(of(ondisk.TypeLink, strings.Repeat("123456789012345/", 255)+"1234567890123456")), true},
		{"link to a longer path", file(of(ondisk.TypeLink, strings.Repeat("123456789012345/", 255)+"12345678901234567")), false},
		{"link outside", file(of(ondisk.TypeLink, "../b")), false},
		{"no target", file(of(ondisk.TypeSymlink, "")), false},
		{"unknown type", file(of(9, "")), false},
		{"page hashes", file(func(e *ondisk.Entry) {
			hole(16<<10 + 1)(e)
			e.Pages = &ondisk.Pages{Extents: []ondisk.Slice{{Len: 16}}}
		}), true},
		{"page hashes too short", file(func(e *ondisk.Entry) {
			hole(16<<10 + 1)(e)
			e.Pages = &ondisk.Pages{Extents: []ondisk.Slice{{Len: 8}}}
		}), false},
		{"page hashes of the largest file", file(func(e *ondisk.Entry) {
			hole(1 << 62)(e)
			e.Pages = &ondisk.Pages{Extents: []ondisk.Slice{{Len: 1 << 51}}}
		}), true},
		{"page hashes nowhere", file(func(e *ondisk.Entry) { hole(1)(e); e.Pages = &ondisk.Pages{} }), false},
		{"page hashes twice", file(func(e *ondisk.Entry) {
			hole(1)(e)
			e.Pages = &ondisk.Pages{Extents: []ondisk.Slice{{Len: 8}}, Map: &ondisk.Root{}}
		}), false},
		{"page hashes too high", file(func(e *ondisk.Entry) {
			hole(1)(e)
			e.Pages = &ondisk.Pages{Map: &ondisk.Root{Height: ondisk.MaxTreeHeight}}
		}), false},
		{"page hashes of nothing", file(func(e *ondisk.Entry) { e.Pages = &ondisk.Pages{Map: &ondisk.Root{}} }), false},
		{"status of a link", &ondisk.Entry{Type: ondisk.TypeLink, Target: "a", Stat: &ondisk.Stat{}}, false},
		{"nanoseconds", file(func(e *ondisk.Entry) { e.ModTime = time.Unix(math.MinInt64, 999_999_999).UTC() }), true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, derr := ondisk.DecodeEntry(ondisk.AppendEntry(nil, tc.e))
			verr := tc.e.Validate()
			if (derr == nil) != tc.ok || (verr == nil) != tc.ok {
				t.Errorf("want ok = %t: the writer says %v, the reader %v", tc.ok, verr, derr)
			}
		})
	}
}

func TestMalformedEntries(t *testing.T) {
	good := ondisk.AppendEntry(nil, &ondisk.Entry{Type: ondisk.TypeFile, ModTime: time.Unix(1, 1)})
	meta := slices.Clone(good)
	tests := map[string][]byte{
		"empty":              {},
		"field twice":        append(slices.Clone(good), good...),
		"unknown field":      append(slices.Clone(meta), 7, 1, 0),
		"empty field":        append(slices.Clone(meta), 2, 0),
		"truncated":          good[:len(good)-1],
		"trailing":           append(slices.Clone(good), 0),
		"field out of order": append([]byte{2, 1, 'x'}, good...),
		"long varint":        append([]byte{0x81, 0x00}, good[1:]...),
		"trailing in meta":   append([]byte{good[0], good[1] + 1}, append(slices.Clone(good[2:]), 0)...),
	}
	for name, b := range tests {
		if e, err := ondisk.DecodeEntry(b); err == nil {
			t.Errorf("%s: %x decodes to %+v", name, b, e)
		}
	}
	if _, err := ondisk.DecodeEntry(append(slices.Clone(good), 0xff, 0x01, 3, 'a', 'b', 'c')); err != nil {
		t.Errorf("an optional field is refused: %v", err)
	}
}

func TestPaths(t *testing.T) {
	deep := strings.TrimSuffix(strings.Repeat("d/", ondisk.MaxDepth), "/")
	long := strings.TrimSuffix(strings.Repeat(strings.Repeat("x", 15)+"/", 256), "/") + "y"
	for p, want := range map[string]bool{
		".": true, "a": true, "a/b": true, "...": true, "a/...": true, " ": true, "\xff\n": true, deep: true, long[:4095] + "z": true,
		strings.Repeat("n", 255): true,
		"":                       false, "/": false, "/a": false, "a/": false, "a//b": false, "..": false, "a/..": false, "./a": false, "a/.": false,
		"a\x00b": false, deep + "/d": false, long + "y": false, strings.Repeat("n", 256): false,
	} {
		if got := ondisk.ValidPath(p); got != want {
			t.Errorf("ValidPath(%.40q, %d bytes) = %t", p, len(p), got)
		}
		if !want {
			continue
		}
		back, err := ondisk.KeyPath(ondisk.PathKey(p))
		if err != nil || back != p {
			t.Errorf("%q becomes %q, %v", p, back, err)
		}
	}
	for _, key := range []string{"a/b", "\x00", "a\x00", "\x00a", "a\x00\x00b", ".", "..", "a\x00.."} {
		if p, err := ondisk.KeyPath([]byte(key)); err == nil {
			t.Errorf("key %q is path %q", key, p)
		}
	}
}

// TestPathOrder checks that the order of keys is that of a depth-first walk.
func TestPathOrder(t *testing.T) {
	want := []string{".", "a", "a/b", "a/b/c", "a/b\x01", "a\x01", "a.b", "a.b/c", "b"}
	got := slices.Clone(want)
	rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
	slices.SortFunc(got, func(a, b string) int { return bytes.Compare(ondisk.PathKey(a), ondisk.PathKey(b)) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestIDs(t *testing.T) {
	id := randomID(rand.New(rand.NewPCG(1, 1)))
	if got, err := ondisk.ParseID(id.String()); err != nil || got != id {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"", "00", id.String() + "00", "zz" + id.String()[2:], strings.ToUpper(id.String())} {
		if _, err := ondisk.ParseID(s); err == nil {
			t.Errorf("%q is an id", s)
		}
	}
}

// A key that is a path prefix of another cannot be stored in every bucket.
func TestKeySpace(t *testing.T) {
	key := ondisk.PackRef{Session: [16]byte{0xab}, Seq: 0x12}.Key()
	if want := "pack/ab000000000000000000000000000000-00000012"; key != want {
		t.Errorf("got %s, want %s", key, want)
	}
	prefixes := []string{ondisk.SlotPrefix, ondisk.SessionPrefix, ondisk.PackPrefix, ondisk.IndexPrefix, ondisk.PointPrefix}
	for _, p := range append(prefixes, ondisk.HeaderCopyKey+"/") {
		if strings.HasPrefix(ondisk.HeaderKey+"/", p) || strings.HasPrefix(p, ondisk.HeaderKey+"/") {
			t.Errorf("%s and %s are in each other's way", p, ondisk.HeaderKey)
		}
	}
}
