// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"encoding/binary"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

const (
	// denseChunk is the size of chunks into which short runs of changed pages
	// are packed.
	denseChunk = 1 << 20
	// maxQueue bounds the slices that wait for such a chunk, at 56 bytes each.
	maxQueue = 32 << 10
)

// assembler puts the slices of a file in order, while the chunk that some of
// them refer to is still being filled.
type assembler struct {
	put   func(ondisk.Kind, []byte) (ondisk.ID, error)
	x     *extents
	dense []byte
	queue []queued
}

// queued is a slice that waits for its turn, or for the id of its chunk.
type queued struct {
	ondisk.Slice
	dense bool
}

// add appends a slice of a chunk that is stored, or a hole.
func (a *assembler) add(s ondisk.Slice) error {
	if len(a.queue) == 0 {
		return a.x.add(s)
	}
	a.queue = append(a.queue, queued{Slice: s})
	if len(a.queue) >= maxQueue {
		return a.flush()
	}
	return nil
}

// store appends data as a chunk of its own.
func (a *assembler) store(data []byte) error {
	id, err := a.put(ondisk.KindData, data)
	if err != nil {
		return err
	}
	return a.add(ondisk.Slice{ID: id, Len: uint64(len(data))})
}

// pack appends data, at most a denseChunk, as part of a shared chunk.
func (a *assembler) pack(data []byte) error {
	if len(a.dense)+len(data) > denseChunk {
		if err := a.flush(); err != nil {
			return err
		}
	}
	s := ondisk.Slice{Off: uint32(len(a.dense)), Len: uint64(len(data))} // below denseChunk
	a.dense = append(a.dense, data...)
	a.queue = append(a.queue, queued{s, true})
	return nil
}

// flush stores the shared chunk and lets the slices go.
func (a *assembler) flush() error {
	if len(a.dense) == 0 {
		return nil // then nothing waits
	}
	id, err := a.put(ondisk.KindData, a.dense)
	if err != nil {
		return err
	}
	for _, q := range a.queue {
		if q.dense {
			q.ID = id
		}
		if err := a.x.add(q.Slice); err != nil {
			return err
		}
	}
	a.dense, a.queue = a.dense[:0], a.queue[:0]
	return nil
}

// pagesChunk is the size of chunks of page hashes: one for 32 MiB of a file.
const pagesChunk = 16 << 10

// pageHashes stores the hashes of a file's pages.
type pageHashes struct {
	put func(ondisk.Kind, []byte) (ondisk.ID, error)
	x   *extents
	buf []byte
}

func (h *pageHashes) add(hash uint64) error {
	h.buf = binary.LittleEndian.AppendUint64(h.buf, hash)
	if len(h.buf) < pagesChunk {
		return nil
	}
	return h.flush()
}

// zeros adds the hashes of n pages of zeros.
func (h *pageHashes) zeros(n uint64) error {
	for ; n > 0 && len(h.buf) > 0; n-- {
		if err := h.add(0); err != nil {
			return err
		}
	}
	whole := n / (pagesChunk / ondisk.PageHash) * pagesChunk
	if err := h.x.add(ondisk.Slice{Len: whole}); err != nil {
		return err
	}
	h.buf = append(h.buf, make([]byte, n*ondisk.PageHash-whole)...)
	return nil
}

func (h *pageHashes) flush() error {
	s := ondisk.Slice{Len: uint64(len(h.buf))}
	if !isZero(h.buf) {
		id, err := h.put(ondisk.KindPages, h.buf)
		if err != nil {
			return err
		}
		s.ID = id
	}
	h.buf = h.buf[:0]
	return h.x.add(s)
}

func (h *pageHashes) finish() (*ondisk.Pages, error) {
	if err := h.flush(); err != nil {
		return nil, err
	}
	extents, root, err := h.x.finish()
	return &ondisk.Pages{Extents: extents, Map: root}, err
}

// isZero reports whether all bytes are zero: the first is, and each is like the
// one before it.
func isZero(p []byte) bool { return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) }
