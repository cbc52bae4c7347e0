// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// PageHasher computes the short hashes by which changed pages of a file are
// found. They are keyed: who chooses a file's content cannot look for two
// pages with one hash. It is not safe for concurrent use.
type PageHasher struct{ h *blake3.Hasher }

// PageHasher returns a hasher of pages.
func (k *Keys) PageHasher() *PageHasher {
	h, err := blake3.NewKeyed(k.derive("page hash", 32))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	return &PageHasher{h: h}
}

// Sum returns the hash of a page, which is never 0.
func (p *PageHasher) Sum(page []byte) uint64 {
	var sum [32]byte
	p.h.Reset()
	_, _ = p.h.Write(page) // cannot fail
	p.h.Sum(sum[:0])
	return max(binary.LittleEndian.Uint64(sum[:]), 1)
}
