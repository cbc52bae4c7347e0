// SPDX-License-Identifier: Apache-2.0

// Package pack is the format of pack objects: sealed chunks back to back,
// without readable frames, then a sealed footer that describes them.
//
//	magic (8) | key reference (1) | epoch (4) | salt (32) | sealed chunks |
//	sealed footer | length of the sealed footer (4) | magic (8)
//
// The key reference says how epoch and salt lead to the key of the chunks. There
// is one way, 0; others are reserved for writers that cannot read. The footer
// repeats the three.
//
// The footer and the index segments hold the same facts, so that either can be
// rebuilt from the other.
package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

const (
	magic   = "PROTPAK\x01"
	keySize = 1 + 4 + len(seal.Salt{})
	header  = len(magic) + keySize
	trailer = 4 + len(magic)
)

// Overhead is an upper bound of what a pack is longer than its sealed chunks,
// apart from EntrySize for each.
const Overhead = header + trailer + seal.ObjectOverhead + keySize + 64

// EntrySize is an upper bound of the footer's share of one chunk.
const EntrySize = 32 + 2 + 5 + 5

// keyOfEpoch is the key reference of chunks whose key is derived from the secret
// of an epoch.
const keyOfEpoch = 0

var (
	// ErrMalformed reports a pack that breaks the rules of the format.
	ErrMalformed = errors.New("malformed pack")
	// ErrKeyReference reports a pack whose chunks are sealed in a way that this
	// release does not know.
	ErrKeyReference = errors.New("unknown kind of data key")
)

// Entry describes one sealed chunk of a pack.
type Entry struct {
	ID     ondisk.ID
	Kind   ondisk.Kind
	Codec  ondisk.Codec
	Offset uint32 // of the sealed chunk in the pack
	Sealed uint32 // its length
	Plain  uint32 // length of the plaintext
}

// AAD returns what the sealed chunk is bound to.
func (e Entry) AAD() seal.ChunkAAD {
	return seal.ChunkAAD{ID: e.ID, Kind: e.Kind, Codec: e.Codec, Plain: e.Plain}
}

// Builder collects the chunks of one pack in memory.
type Builder struct {
	buf     []byte
	entries []Entry
	full    int
}

// NewBuilder starts a pack of a session, which is expected to grow to full
// bytes. It reuses buf if that is large enough.
func NewBuilder(buf []byte, key seal.DataKey, full int) *Builder {
	buf = append(append(buf[:0], magic...), keyOfEpoch)
	buf = binary.LittleEndian.AppendUint32(buf, key.Epoch)
	return &Builder{buf: append(buf, key.Salt[:]...), full: full}
}

// large is the size from which on a pack gets all of its memory at once. To
// double it again and again would leave several times as much for the garbage
// collector.
const large = 1 << 20

// Add appends a sealed chunk. Offset and Sealed of e are set by Add.
func (b *Builder) Add(e Entry, sealed []byte) {
	e.Offset = uint32(len(b.buf))  // below MaxPack
	e.Sealed = uint32(len(sealed)) // below MaxChunk
	if n := len(b.buf) + len(sealed); n > cap(b.buf) && n > large && n < b.full {
		b.buf = slices.Grow(b.buf, b.full-len(b.buf))
	}
	b.buf = append(b.buf, sealed...)
	b.entries = append(b.entries, e)
}

// Len returns the size that the pack would have, as an upper bound.
func (b *Builder) Len() int { return len(b.buf) + Overhead + EntrySize*len(b.entries) }

// Entries returns the chunks so far.
func (b *Builder) Entries() []Entry { return b.entries }

// Finish appends the footer and returns the pack to be stored under key.
func (b *Builder) Finish(keys *seal.Keys, key string) []byte {
	f := bytes.Clone(b.buf[len(magic):header])
	f = ondisk.AppendUvarint(f, uint64(len(b.entries)))
	for _, e := range b.entries {
		f = append(f, e.ID[:]...)
		f = append(f, byte(e.Kind), byte(e.Codec))
		f = ondisk.AppendUvarint(f, uint64(e.Sealed))
		f = ondisk.AppendUvarint(f, uint64(e.Plain))
	}
	sealed := keys.SealObject(key, f)
	b.buf = append(b.buf, sealed...)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(sealed))) // below MaxPack
	return append(b.buf, magic...)
}

// Parse reads the data key and the footer of a whole pack that was stored under
// key. The entries describe every byte between header and footer.
func Parse(keys *seal.Keys, key string, data []byte) (seal.DataKey, []Entry, error) {
	plain, start, _, err := footer(keys, key, data, int64(len(data)))
	if err == nil && !bytes.HasPrefix(data, append([]byte(magic), plain[:keySize]...)) {
		err = fmt.Errorf("%w: header and footer disagree", ErrMalformed)
	}
	if err != nil {
		return seal.DataKey{}, nil, err
	}
	return parseFooter(plain, start)
}

// ParseTail does so with the last bytes of a pack of this size. If they do not
// hold the whole footer, it returns how many it takes, and otherwise 0.
func ParseTail(keys *seal.Keys, key string, tail []byte, size int64) (dk seal.DataKey, entries []Entry, need int64, err error) {
	plain, start, need, err := footer(keys, key, tail, size)
	if err != nil || need > 0 {
		return dk, nil, need, err
	}
	dk, entries, err = parseFooter(plain, start)
	return dk, entries, 0, err
}

// footer opens the footer and returns where it begins, or how long the tail
// must be.
func footer(keys *seal.Keys, key string, tail []byte, size int64) (plain []byte, start, need int64, err error) {
	bad := func(what string) ([]byte, int64, int64, error) {
		return nil, 0, 0, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	if size < int64(header+trailer) || size > ondisk.MaxPack || int64(len(tail)) > size {
		return bad("size")
	}
	if len(tail) < trailer {
		return nil, 0, int64(trailer), nil
	}
	end := len(tail) - trailer
	if string(tail[end+4:]) != magic {
		return bad("magic")
	}
	length := int64(binary.LittleEndian.Uint32(tail[end:]))
	start = size - int64(trailer) - length
	if start < int64(header) || length > int64(ondisk.MaxFooter+seal.ObjectOverhead) {
		return bad("footer length")
	}
	if length > int64(end) {
		return nil, 0, length + int64(trailer), nil
	}
	if plain, err = keys.OpenObject(key, tail[end-int(length):end]); err != nil {
		return nil, 0, 0, fmt.Errorf("footer: %w", err)
	}
	if len(plain) < keySize {
		return bad("footer")
	}
	return plain, start, 0, nil
}

// parseFooter decodes a footer that begins at start.
func parseFooter(plain []byte, start int64) (dk seal.DataKey, entries []Entry, err error) {
	if plain[0] != keyOfEpoch {
		return dk, nil, fmt.Errorf("%w: %d", ErrKeyReference, plain[0])
	}
	dk.Epoch = binary.LittleEndian.Uint32(plain[1:])
	copy(dk.Salt[:], plain[5:])
	if entries, err = decodeFooter(plain[keySize:]); err != nil {
		return dk, nil, err
	}
	end := int64(header)
	if n := len(entries); n > 0 {
		end = int64(entries[n-1].Offset) + int64(entries[n-1].Sealed)
	}
	if end != start {
		return dk, nil, fmt.Errorf("%w: chunks do not fill the pack", ErrMalformed)
	}
	return dk, entries, nil
}

func decodeFooter(plain []byte) ([]Entry, error) {
	d := ondisk.NewDecoder(plain)
	n := int(d.Uvarint(ondisk.MaxPackEntries)) // bounded
	entries := make([]Entry, 0, min(n, d.Len()/36))
	off := uint64(header)
	for range n {
		var e Entry
		copy(e.ID[:], d.Fixed(len(e.ID)))
		e.Kind, e.Codec = ondisk.Kind(d.Byte()), ondisk.Codec(d.Byte())
		e.Offset = uint32(off)                                        // checked below
		e.Sealed = uint32(d.Uvarint(ondisk.MaxChunk + seal.Overhead)) // bounded
		e.Plain = uint32(d.Uvarint(ondisk.MaxChunk))                  // bounded
		if off += uint64(e.Sealed); d.Err() != nil || off > ondisk.MaxPack {
			break
		}
		entries = append(entries, e)
	}
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	if len(entries) != n {
		return nil, fmt.Errorf("%w: footer", ErrMalformed)
	}
	return entries, nil
}
