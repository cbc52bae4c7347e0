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

// extents builds the extent map of a file front to back.
type extents struct {
	seed   uint64
	put    tree.Put
	size   uint64
	inline []ondisk.Slice
	b      *tree.Builder
	hole   uint64 // length of a hole at the end that is not added yet
}

func (x *extents) addHole(n uint64) {
	x.hole += n
	x.size += n
}

func (x *extents) add(s ondisk.Slice) error {
	if err := x.flushHole(); err != nil {
		return err
	}
	x.size += s.Len
	return x.append(s, x.size-s.Len)
}

func (x *extents) flushHole() error {
	if x.hole == 0 {
		return nil
	}
	s := ondisk.Slice{Len: x.hole}
	x.hole = 0
	return x.append(s, x.size-s.Len)
}

func (x *extents) append(s ondisk.Slice, off uint64) error {
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
	return x.b.Add(offsetKey(off), ondisk.AppendSlice(nil, s))
}

// finish stores the map in the entry.
func (x *extents) finish(e *ondisk.Entry) error {
	if err := x.flushHole(); err != nil {
		return err
	}
	e.Size, e.Extents = x.size, x.inline
	if x.b != nil {
		root, err := x.b.Finish()
		if err != nil {
			return err
		}
		e.Map = &root
	}
	return nil
}

// offsetKey orders the records of an extent map by their place in the file.
func offsetKey(off uint64) []byte { return binary.BigEndian.AppendUint64(nil, off) }
