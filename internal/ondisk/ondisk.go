// SPDX-License-Identifier: Apache-2.0

// Package ondisk holds the words and limits of the repository format and the
// binary encoding of its smallest parts. It does no I/O and no cryptography.
//
// All integers are little-endian or canonical (shortest) unsigned varints, so
// that every value has exactly one encoding and parse∘print is the identity.
package ondisk

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Version is the format that this code writes, and the only one it reads. 0 was
// experimental.
const Version = 1

// Limits of the format. A reader refuses what exceeds them before it allocates.
const (
	MaxChunk       = 8 << 20   // plaintext of one chunk
	MaxPack        = 80 << 20  // one pack object
	MaxFooter      = 16 << 20  // plaintext of a pack's footer
	MaxPackEntries = 128 << 10 // chunks in one pack
	MaxSegment     = 16 << 20  // plaintext of an index segment
	MaxRecord      = 4 << 20   // plaintext of a recovery point or session record
	MaxHeader      = 64 << 10  // the public header, and a key slot
	MaxSlots       = 64        // key slots
	MaxEpoch       = 511       // number of the newest data-key epoch
	MaxNode        = 4 << 20   // a tree node
	MaxTreeHeight  = 8         // levels of a tree
	MaxName        = 255       // one path component, bytes
	MaxPath        = 4096      // a path within a volume, bytes
	MaxDepth       = 256       // components of a path
	MaxLink        = 4095      // a symbolic link's target, bytes
	MaxXattrs      = 128       // extended attributes of one entry
	MaxXattrBytes  = 64 << 10  // names and values of one entry's attributes
	MaxVolumes     = 1024      // volumes of one recovery point
)

// ErrMalformed reports bytes that are not a valid encoding.
var ErrMalformed = errors.New("malformed encoding")

// ID names a chunk by the keyed hash of its plaintext.
type ID [32]byte

// String returns the ID in hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is all zeros, which no chunk has: it marks a hole.
func (id ID) IsZero() bool { return id == ID{} }

// Kind says what a chunk holds. It is authenticated with the chunk.
type Kind uint8

// The kinds of chunks. Values are part of the format; new ones go to the end.
const (
	KindData   Kind = 1 // contents of files and streams
	KindTree   Kind = 2 // node of a volume's tree
	KindExtent Kind = 3 // node of a file's extent map
	KindPages  Kind = 4 // hashes of the pages of a file
)

// Meta reports whether chunks of this kind go to the metadata packs.
func (k Kind) Meta() bool { return k != KindData }

// Codec says how a chunk's plaintext is stored.
type Codec uint8

// The codecs. Values are part of the format.
const (
	Raw  Codec = 0
	Zstd Codec = 1
)

// Slice refers to Len bytes at Off of a chunk. It is the only kind of
// reference to data. The zero ID is a hole of Len zero bytes that is neither
// read nor stored.
type Slice struct {
	ID  ID
	Off uint32
	Len uint64 // more than 2^32 only for holes
}

// AppendSlice appends the encoding of s.
func AppendSlice(b []byte, s Slice) []byte {
	b = AppendUvarint(b, s.Len)
	if s.ID.IsZero() {
		return append(b, 0)
	}
	b = append(b, 1)
	b = append(b, s.ID[:]...)
	return AppendUvarint(b, uint64(s.Off))
}

// Slice decodes a slice.
func (d *Decoder) Slice() Slice {
	s := Slice{Len: d.Uvarint(maxSize)}
	switch d.Byte() {
	case 0:
	case 1:
		copy(s.ID[:], d.Fixed(len(s.ID)))
		s.Off = uint32(d.Uvarint(MaxChunk)) // bounded
		if s.ID.IsZero() {
			d.fail("slice of no chunk")
		}
	default:
		d.fail("slice tag")
	}
	if !s.valid() {
		d.fail("slice is empty or outside of a chunk")
	}
	return s
}

func (s Slice) valid() bool {
	if s.ID.IsZero() {
		return s.Off == 0 && 0 < s.Len && s.Len <= maxSize
	}
	return 0 < s.Len && s.Len <= MaxChunk && uint64(s.Off) <= MaxChunk-s.Len
}

// PackRef numbers the packs of one session.
type PackRef struct {
	Session [16]byte
	Seq     uint32
}

// Key returns the object key of the pack.
func (p PackRef) Key() string { return fmt.Sprintf("%s%x-%08x", PackPrefix, p.Session, p.Seq) }

// The key space. Keys are flat: none is a path prefix of another, and their
// alphabet is [a-z0-9./-], which every store lists alike. Nor does one begin with
// another, so that whoever lists an object finds that one first.
const (
	HeaderKey     = "protect.repository"
	HeaderCopyKey = "protect.header-copy"
	SlotPrefix    = "key/"     // <16 hex>
	EpochPrefix   = "epoch/"   // <epoch 8 hex>
	SessionPrefix = "session/" // <session 32 hex>
	PackPrefix    = "pack/"    // <session>-<number 8 hex>
	IndexPrefix   = "index/"   // <level 2 hex>-<id 32 hex>-<part 8 hex>
	PointPrefix   = "point/"   // <name 32 hex>-<attempt 8 hex>
	ForgetPrefix  = "forget/"  // <name>-<attempt>
	HoldPrefix    = "hold/"    // <name>-<attempt>-<random 32 hex>
	ClosedPrefix  = "closed/"  // <level 2 hex>-<id 32 hex>
	CondemnPrefix = "condemn/" // <level 2 hex>-<id 32 hex>
	ResumePrefix  = "resume/"  // <session>-<number 8 hex>
	LedgerPrefix  = "ledger/"
)

// ParseID parses what ID.String prints, and nothing else.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ID{}) || ID(b).String() != s {
		return ID{}, fmt.Errorf("%w: id", ErrMalformed)
	}
	return ID(b), nil
}
