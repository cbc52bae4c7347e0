// SPDX-License-Identifier: Apache-2.0

package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

const (
	key    = "pack/00000000000000000000000000000000-00000000"
	header = 8 + 1 + 4 + 32
)

var dk = seal.DataKey{Epoch: 0x01020304, Salt: seal.Salt{1, 2, 3}}

func keys() *seal.Keys { return seal.NewKeys([16]byte{2}, seal.Secret{1}) }

func entry(rng *rand.Rand) pack.Entry {
	e := pack.Entry{Kind: ondisk.Kind(1 + rng.IntN(3)), Codec: ondisk.Codec(rng.IntN(2)), Plain: rng.Uint32N(ondisk.MaxChunk + 1)} // small
	for i := range e.ID {
		e.ID[i] = byte(rng.Uint32())
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	k, rng := keys(), rand.New(rand.NewPCG(1, 1))
	var buf []byte
	for _, n := range []int{0, 1, 2, 100, 5000} {
		b := pack.NewBuilder(buf, dk, 1<<20)
		var sealed [][]byte
		for range n {
			s := make([]byte, 28+rng.IntN(300))
			s[0] = byte(rng.Uint32())
			sealed = append(sealed, s)
			b.Add(entry(rng), s)
		}
		want, bound := b.Entries(), b.Len()
		data := b.Finish(k, key)
		if len(data) > bound {
			t.Errorf("%d chunks: %d bytes, announced as at most %d", n, len(data), bound)
		}
		gotKey, got, err := pack.Parse(k, key, data)
		if err != nil || gotKey != dk {
			t.Fatalf("%d chunks: %v", n, err)
		}
		if diff := cmp.Diff(append([]pack.Entry{}, want...), got); diff != "" {
			t.Errorf("%d chunks (-want +got):\n%s", n, diff)
		}
		for i, e := range got {
			if !bytes.Equal(data[e.Offset:][:e.Sealed], sealed[i]) {
				t.Errorf("chunk %d is not at %d", i, e.Offset)
			}
		}
		buf = data // the next one reuses it
	}
}

func TestDamage(t *testing.T) {
	k, rng := keys(), rand.New(rand.NewPCG(2, 2))
	b := pack.NewBuilder(nil, dk, 0)
	for range 3 {
		b.Add(entry(rng), make([]byte, 40))
	}
	data := b.Finish(k, key)
	for i := range data {
		if i >= header && i < header+3*40 {
			continue // the chunks have seals of their own
		}
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			data[i] ^= mask
			if _, _, err := pack.Parse(k, key, data); err == nil {
				t.Errorf("byte %d of %d can be changed", i, len(data))
			}
			data[i] ^= mask
		}
	}
	for n := range data {
		if _, _, err := pack.Parse(k, key, data[:n]); err == nil {
			t.Errorf("%d of %d bytes are a pack", n, len(data))
		}
		if _, _, err := pack.Parse(k, key, data[n+1:]); err == nil {
			t.Errorf("the last %d of %d bytes are a pack", len(data)-n-1, len(data))
		}
	}
	if _, _, err := pack.Parse(k, key, append(bytes.Clone(data), 0)); err == nil {
		t.Error("trailing byte")
	}
	if _, _, err := pack.Parse(k, "pack/other", data); !errors.Is(err, seal.ErrAuth) {
		t.Errorf("renamed: %v", err)
	}
}

// head is the header of a pack with this key reference.
func head(ref byte) []byte {
	h := append([]byte("PROTPAK\x01"), ref)
	return append(binary.LittleEndian.AppendUint32(h, dk.Epoch), dk.Salt[:]...)
}

// forge returns a pack whose footer has a valid seal and any content.
func forge(k *seal.Keys, chunks, footer []byte) []byte {
	data := append(head(0), chunks...)
	sealed := k.SealObject(key, footer)
	data = append(data, sealed...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(sealed))) // small
	return append(data, "PROTPAK\x01"...)
}

func footer(entries ...pack.Entry) []byte {
	f := ondisk.AppendUvarint(head(0)[8:], uint64(len(entries)))
	for _, e := range entries {
		f = append(append(f, e.ID[:]...), byte(e.Kind), byte(e.Codec))
		f = ondisk.AppendUvarint(ondisk.AppendUvarint(f, uint64(e.Sealed)), uint64(e.Plain))
	}
	return f
}

func TestMalformedFooters(t *testing.T) {
	k := keys()
	chunks := make([]byte, 100)
	e := pack.Entry{ID: ondisk.ID{1}, Kind: 1, Sealed: 100, Plain: 50}
	change := func(f func(*pack.Entry)) pack.Entry { c := e; f(&c); return c }
	if _, _, err := pack.Parse(k, key, forge(k, chunks, footer(e))); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string][]byte{
		"empty":          {},
		"no chunks":      footer(),
		"too few":        footer(change(func(e *pack.Entry) { e.Sealed = 99 })),
		"too many":       footer(change(func(e *pack.Entry) { e.Sealed = 101 })),
		"one more":       footer(e, change(func(e *pack.Entry) { e.Sealed = 1 })),
		"huge chunk":     footer(change(func(e *pack.Entry) { e.Sealed = ondisk.MaxChunk + seal.Overhead + 1 })),
		"huge plaintext": footer(change(func(e *pack.Entry) { e.Plain = ondisk.MaxChunk + 1 })),
		"wrong count":    append(append(head(0)[8:], 2), footer(e)[38:]...),
		"huge count":     append(append(head(0)[8:], 0xff, 0xff, 0xff, 0x7f), footer(e)[38:]...),
		"short":          footer(e)[:20],
		"another salt":   append([]byte{0, 4, 3, 2, 1, 9}, footer(e)[6:]...),
		"trailing":       append(footer(e), 0),
	} {
		if _, got, err := pack.Parse(k, key, forge(k, chunks, f)); !errors.Is(err, pack.ErrMalformed) && !errors.Is(err, ondisk.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestLimits parses the largest packs and footers, and none that are larger.
func TestLimits(t *testing.T) {
	k := keys()
	many := func(n int) []byte { return forge(k, nil, footer(make([]pack.Entry, n)...)) }
	for n, ok := range map[int]bool{ondisk.MaxPackEntries: true, ondisk.MaxPackEntries + 1: false} {
		if _, _, err := pack.Parse(k, key, many(n)); (err == nil) != ok {
			t.Errorf("%d chunks: %v", n, err)
		}
	}
	for size, ok := range map[int64]bool{ondisk.MaxPack: true, ondisk.MaxPack + 1: false} {
		entries := make([]pack.Entry, 11)
		for i := range entries {
			entries[i].Sealed = ondisk.MaxChunk / 2
		}
		end := int64(len(forge(k, nil, footer(entries...))))
		for i := range entries {
			entries[i].Sealed = uint32((size - end + int64(i)) / int64(len(entries))) // below MaxChunk
		}
		if _, _, _, err := pack.ParseTail(k, key, forge(k, nil, footer(entries...)), size); (err == nil) != ok {
			t.Errorf("a pack of %d bytes: %v", size, err)
		}
	}
	for n, ok := range map[int]bool{ondisk.MaxFooter: true, ondisk.MaxFooter + 1: false} {
		_, _, err := pack.Parse(k, key, forge(k, nil, append(head(0)[8:], make([]byte, n-len(head(0)[8:]))...)))
		if err == nil || strings.Contains(err.Error(), "footer length") == ok {
			t.Errorf("a footer of %d bytes: %v", n, err)
		}
	}
}

// TestKeyReference: what is reserved is refused, and not called damage.
func TestKeyReference(t *testing.T) {
	k := keys()
	data := forge(k, nil, append([]byte{1}, footer()[1:]...))
	data[8] = 1
	if _, _, err := pack.Parse(k, key, data); !errors.Is(err, pack.ErrKeyReference) {
		t.Errorf("got %v", err)
	}
	data[8] = 0
	if _, _, err := pack.Parse(k, key, data); !errors.Is(err, pack.ErrMalformed) {
		t.Errorf("header and footer disagree: %v", err)
	}
}

// FuzzParse reaches the decoder: the footer is sealed with the right key.
func FuzzParse(f *testing.F) {
	k, rng := keys(), rand.New(rand.NewPCG(3, 3))
	var some []pack.Entry
	for range 5 {
		e := entry(rng)
		e.Sealed = 20
		some = append(some, e)
	}
	f.Add(footer(some...), uint16(100))
	f.Add(footer(some[:1]...), uint16(20))
	f.Add(footer(), uint16(0))
	f.Fuzz(func(t *testing.T, foot []byte, size uint16) {
		data := forge(k, make([]byte, size), foot)
		_, entries, err := pack.Parse(k, key, data)
		if err != nil {
			return
		}
		end := header
		for _, e := range entries {
			if int(e.Offset) != end || e.Plain > ondisk.MaxChunk {
				t.Fatalf("entry %+v, want one at %d", e, end)
			}
			end += int(e.Sealed)
		}
		if end != header+int(size) {
			t.Fatalf("entries end at %d, chunks at %d", end, header+int(size))
		}
		if !bytes.Equal(footer(entries...), foot) {
			t.Fatalf("footer %x prints as %x", foot, footer(entries...))
		}
	})
}

// FuzzTail reads packs as they may be in the bucket, whole and from their end:
// both say the same, and only what the store gave is read.
func FuzzTail(f *testing.F) {
	k := keys()
	for _, n := range []int{0, 1, 3} {
		b := pack.NewBuilder(nil, dk, 1<<10)
		rng := rand.New(rand.NewPCG(5, uint64(n))) // small
		for range n {
			b.Add(entry(rng), make([]byte, 20))
		}
		data := b.Finish(k, key)
		f.Add(data, uint16(0))
		f.Add(data, uint16(len(data))) // small
		f.Add(data[:len(data)-1], uint16(60))
	}
	f.Add([]byte("PROTPAK\x01"), uint16(8))
	f.Fuzz(func(t *testing.T, data []byte, first uint16) {
		dk, want, err := pack.Parse(k, key, data)
		size := int64(len(data))
		for need := min(int64(first), size); ; {
			tdk, got, more, terr := pack.ParseTail(k, key, data[size-need:], size)
			if terr != nil {
				if err == nil {
					t.Fatalf("the last %d of %d bytes: %v", need, size, terr)
				}
				return
			}
			if more == 0 {
				if err == nil && (dk != tdk || !slices.Equal(want, got)) {
					t.Fatalf("the last %d of %d bytes say something else", need, size)
				}
				return
			}
			if more <= need || more > size {
				t.Fatalf("of %d bytes, %d are not enough, but %d", size, need, more)
			}
			need = more
		}
	})
}
