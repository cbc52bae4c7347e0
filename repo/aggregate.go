// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// Small files are collected into chunks of this size. Between the two, one
// path in 2^groupBits ends a chunk, so that a new file changes the chunk that
// it falls into and not all that follow.
const (
	minGroup  = 256 << 10
	maxGroup  = 1 << 20
	groupBits = 3
	// waiting bounds the entries that wait for their chunk.
	waiting = 8 << 10
	// remembered bounds how many contents are known by their hash, about 100
	// bytes each, so that equal files in one session are stored once.
	remembered = 128 << 10
)

// aggregator packs small files into shared chunks. Entries leave it in the
// order in which they came.
type aggregator struct {
	w      *Writer
	emit   func(*job) error
	buf    []byte
	queue  []*job
	placed map[ondisk.ID]ondisk.Slice // content hash to where it is; zero ID: in buf
}

// place finds a place for the content of a small file.
func (a *aggregator) place(j *job) error {
	s, known := a.placed[j.entry.Hash]
	if !known {
		if len(a.buf)+len(j.small) > maxGroup {
			if err := a.flush(); err != nil {
				return err
			}
		}
		s = ondisk.Slice{Off: uint32(len(a.buf)), Len: uint64(len(j.small))} // below maxGroup
		a.buf = append(a.buf, j.small...)
		if a.placed == nil || len(a.placed) >= remembered {
			a.placed = map[ondisk.ID]ondisk.Slice{}
		}
		a.placed[j.entry.Hash] = s
	}
	j.entry.Extents = []ondisk.Slice{s}
	a.w.dropSmall(j)
	if err := a.pass(j); err != nil {
		return err
	}
	if len(a.buf) >= minGroup && tree.Boundary(a.w.cut, ondisk.PathKey(j.path), groupBits) {
		return a.flush()
	}
	return nil
}

// pass takes an entry whose content has a place, or will have with the next
// flush.
func (a *aggregator) pass(j *job) error {
	if len(a.queue) == 0 && !pending(j) {
		return a.emit(j)
	}
	a.queue = append(a.queue, j)
	if len(a.queue) >= waiting {
		return a.flush()
	}
	return nil
}

// pending reports whether the entry refers to the chunk being filled.
func pending(j *job) bool {
	return !j.entry.Hash.IsZero() && len(j.entry.Extents) == 1 && j.entry.Extents[0].ID.IsZero()
}

// flush stores the chunk and lets the entries go.
func (a *aggregator) flush() error {
	if len(a.buf) > 0 {
		id, err := a.w.pk.put(ondisk.KindData, a.buf)
		if err != nil {
			return err
		}
		a.buf = a.buf[:0]
		for _, j := range a.queue {
			if pending(j) {
				j.entry.Extents[0].ID = id
				a.placed[j.entry.Hash] = j.entry.Extents[0]
			}
		}
	}
	for i, j := range a.queue {
		if err := a.emit(j); err != nil {
			return err
		}
		a.queue[i] = nil
	}
	a.queue = a.queue[:0]
	return nil
}
