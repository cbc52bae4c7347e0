// SPDX-License-Identifier: Apache-2.0

package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

const (
	key    = "pack/00000000000000000000000000000000-00000000"
	header = 8 + 32
)

var salt = seal.Salt{1, 2, 3}

func keys() *seal.Keys { return seal.NewKeys([32]byte{1}, [16]byte{2}) }

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
		b := pack.NewBuilder(buf, salt, 1<<20)
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
		gotSalt, got, err := pack.Parse(k, key, data)
		if err != nil || gotSalt != salt {
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
	b := pack.NewBuilder(nil, salt, 0)
	for range 3 {
		b.Add(entry(rng), make([]byte, 40))
	}
	data := b.Finish(k, key)
	for i := range data {
		if i >= 8 && i < header+3*40 {
			continue // the salt and the chunks have seals of their own
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

// forge returns a pack whose footer has a valid seal and any content.
func forge(k *seal.Keys, chunks, footer []byte) []byte {
	data := append(append([]byte("PROTPAK\x00"), salt[:]...), chunks...)
	sealed := k.SealObject(key, footer)
	data = append(data, sealed...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(sealed))) // small
	return append(data, "PROTPAK\x00"...)
}

func footer(entries ...pack.Entry) []byte {
	f := ondisk.AppendUvarint(nil, uint64(len(entries)))
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
		"wrong count":    append([]byte{2}, footer(e)[1:]...),
		"huge count":     append([]byte{0xff, 0xff, 0xff, 0x7f}, footer(e)[1:]...),
		"trailing":       append(footer(e), 0),
	} {
		if _, got, err := pack.Parse(k, key, forge(k, chunks, f)); !errors.Is(err, pack.ErrMalformed) && !errors.Is(err, ondisk.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
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
