// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"encoding/binary"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// inlineExtents is how many slices an entry holds itself; longer extent maps
// become trees of their own, so that memory does not grow with the file.
const inlineExtents = 64

// extents builds the extent map of a file front to back. A slice that goes on
// where the one before ended becomes one with it.
type extents struct {
	seed   uint64
	put    tree.Put
	size   uint64
	inline []ondisk.Slice
	b      *tree.Builder
	last   ondisk.Slice // at the end, not in the map yet; empty: none
}

func (x *extents) add(s ondisk.Slice) error {
	if s.Len == 0 {
		return nil
	}
	x.size += s.Len
	if x.last.Len > 0 && continues(x.last, s) {
		x.last.Len += s.Len
		return nil
	}
	err := x.flush(x.size - s.Len)
	x.last = s
	return err
}

// continues reports whether b is what comes after a in the same chunk, or a
// hole after a hole.
func continues(a, b ondisk.Slice) bool {
	return a.ID == b.ID && (a.ID.IsZero() || uint64(a.Off)+a.Len == uint64(b.Off))
}

// flush puts the last slice, which ends at end, into the map.
func (x *extents) flush(end uint64) error {
	s := x.last
	x.last = ondisk.Slice{}
	if s.Len == 0 {
		return nil
	}
	if x.b == nil && len(x.inline) < inlineExtents {
		x.inline = append(x.inline, s)
		return nil
	}
	if x.b == nil {
		x.b = tree.NewBuilder(x.seed, x.put)
		var at uint64
		for _, in := range x.inline {
			if err := x.b.Add(offsetKey(at), ondisk.AppendSlice(nil, in)); err != nil {
				return err
			}
			at += in.Len
		}
		x.inline = nil
	}
	return x.b.Add(offsetKey(end-s.Len), ondisk.AppendSlice(nil, s))
}

// finish returns the map: slices, or the tree that holds them.
func (x *extents) finish() ([]ondisk.Slice, *ondisk.Root, error) {
	if err := x.flush(x.size); err != nil {
		return nil, nil, err
	}
	if x.b == nil {
		return x.inline, nil, nil
	}
	root, err := x.b.Finish()
	return nil, &root, err
}

// offsetKey orders the records of an extent map by their place in the file.
func offsetKey(off uint64) []byte { return binary.BigEndian.AppendUint64(nil, off) }
