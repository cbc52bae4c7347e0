// SPDX-License-Identifier: Apache-2.0

package ondisk_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// FuzzDecodeEntry checks that whatever decodes is valid and has no other
// encoding, apart from optional fields, which an older reader drops.
func FuzzDecodeEntry(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 30 {
		f.Add(ondisk.AppendEntry(nil, randomEntry(rng)))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ondisk.DecodeEntry(b)
		if err != nil {
			return
		}
		if err := e.Validate(); err != nil {
			t.Fatalf("decoded, but invalid: %v", err)
		}
		again := ondisk.AppendEntry(nil, e)
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x prints as %x", b, again)
		}
		if rest := b[len(again):]; len(rest) > 0 && (len(rest) < 2 || rest[0] < 0x80) {
			t.Fatalf("%x prints as %x", b, again)
		}
	})
}

func FuzzSlice(f *testing.F) {
	rng := rand.New(rand.NewPCG(8, 8))
	for range 10 {
		f.Add(ondisk.AppendSlice(nil, randomSlice(rng)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := ondisk.NewDecoder(b)
		s := d.Slice()
		if d.Done() != nil {
			return
		}
		if again := ondisk.AppendSlice(nil, s); !bytes.Equal(b, again) {
			t.Fatalf("%x prints as %x", b, again)
		}
		if s.Len == 0 || !s.ID.IsZero() && uint64(s.Off)+s.Len > ondisk.MaxChunk {
			t.Fatalf("invalid slice %+v", s)
		}
	})
}

func FuzzKeyPath(f *testing.F) {
	for _, s := range []string{"", "a", "a\x00b", "a/b", "..", "a\x00..", ".\x00.", "\xff\x00\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, key []byte) {
		p, err := ondisk.KeyPath(key)
		if err != nil {
			return
		}
		if !ondisk.ValidPath(p) {
			t.Fatalf("key %q is the invalid path %q", key, p)
		}
		if back := ondisk.PathKey(p); !bytes.Equal(back, key) {
			t.Fatalf("key %q is path %q is key %q", key, p, back)
		}
	})
}
