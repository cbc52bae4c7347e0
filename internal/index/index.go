// SPDX-License-Identifier: Apache-2.0

// Package index says where chunks are.
//
// A [Segment] is what the repository stores: the chunks of a few packs. Every
// segment is a truthful statement of what once was, whoever wrote it. A
// [Table] is what a process asks: segments merged into one sorted file, or the
// same bytes in memory. A [Set] is several tables together. A [Scan] reads them
// in order.
//
// # Tables
//
// A table consists of blocks of 4 KiB: the packs, the records in the order of
// their ids, and then a tail, which alone is kept in memory: the first eight
// bytes of each block of records (the fences), a filter of about 9.5 bits for a
// chunk, and the names of the segments that the table covers. That is 1.3 MB
// for a million chunks. A look-up asks the filter, finds the block by its
// fence, and reads it; a table in memory takes 54 bytes a chunk in all.
//
// A table file may be in a folder that is not safe. Every block ends with a
// keyed hash of its number and content and of the table's name, and so does the
// tail, which is checked when the table is opened. So damage, forgery and
// exchange of any part is an error that matches [ErrDamaged], and never another
// answer: neither a wrong place nor a chunk that is said not to be there.
package index

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/pack"
)

// ErrDamaged reports a table that is not as it was written. It has to be
// built anew, from segments.
var ErrDamaged = errors.New("index table is damaged")

// Location is where a chunk is.
type Location struct {
	Pack  *PackInfo // shared: not to be modified
	Entry pack.Entry
}

// Auth authenticates table files with a key that only this repository has. It
// is safe for concurrent use.
type Auth struct{ hashers sync.Pool }

// tagSize is the length of the hash at the end of a block.
const tagSize = 16

// NewAuth returns what authenticates with the key.
func NewAuth(key [32]byte) *Auth {
	a := &Auth{}
	a.hashers.New = func() any {
		h, err := blake3.NewKeyed(key[:])
		if err != nil {
			panic(err) // the key has 32 bytes
		}
		return &hasher{h: h}
	}
	return a
}

// hasher has its own memory, since what a hash function is given escapes.
type hasher struct {
	h   *blake3.Hasher
	pre [32 + 8]byte
	sum [32]byte
}

// tag returns the hash of the n-th block of the table of this name.
func (a *Auth) tag(name [32]byte, n uint64, block []byte) (tag [tagSize]byte) {
	s := a.hashers.Get().(*hasher) // our own pool
	copy(s.pre[:], name[:])
	binary.LittleEndian.PutUint64(s.pre[32:], n)
	s.h.Reset()
	_, _ = s.h.Write(s.pre[:]) // cannot fail
	_, _ = s.h.Write(block)    // cannot fail
	s.h.Sum(s.sum[:0])
	copy(tag[:], s.sum[:])
	a.hashers.Put(s)
	return tag
}

// tailNumber stands for the tail where blocks are numbered.
const tailNumber = 1<<64 - 1

// FileName returns the name of a table of these segments, 32 hex digits. It
// tells nothing, and differs from repository to repository.
func (a *Auth) FileName(covers []Name) string {
	tag := a.tag([32]byte{}, uint64(len(covers)), appendNames(nil, covers))
	return hex.EncodeToString(tag[:])
}
