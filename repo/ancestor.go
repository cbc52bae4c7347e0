// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// ancestor is a large file as the parent has it, read front to back in step
// with the file as it is now.
type ancestor struct {
	w      *Writer
	ctx    context.Context //nolint:containedctx // that of the file's reader, which it does not outlive
	size   int64
	slices *sliceCursor // of the content
	hashes *sliceCursor // of the page hashes
	chunk  []byte       // of page hashes
	id     ondisk.ID    // of chunk
	buf    [perRegion * ondisk.PageHash]byte
}

// past is what the parent has of a region.
type past struct {
	slices []placed
	same   [perRegion]bool // pages that can be referred to
	hash   [perRegion]uint64
}

// placed is a slice with its place in the file.
type placed struct {
	ondisk.Slice
	off int64
}

func (s *placed) end() int64 { return s.off + int64(s.Len) } // below 2^62

// maxPast bounds the slices of a region. This package writes a few dozen.
const maxPast = 4096

func (w *Writer) newAncestor(ctx context.Context, e *ondisk.Entry) *ancestor {
	if e == nil || e.Pages == nil {
		return nil
	}
	return &ancestor{
		w: w, ctx: ctx, size: int64(e.Size), // below 2^62
		slices: newSliceCursor(w.r.slices(ctx, e.Extents, e.Map)),
		hashes: newSliceCursor(w.r.slices(ctx, e.Pages.Extents, e.Pages.Map)),
	}
}

func (a *ancestor) close() {
	a.slices.stop()
	a.hashes.stop()
}

// region fills in what the parent has of the n bytes at off of a file that has
// size bytes now. Regions are asked for in ascending order.
func (a *ancestor) region(p *past, off int64, n int) error {
	p.slices = p.slices[:0]
	clear(p.same[:])
	end := min(off+int64(n), a.size)
	if off >= end {
		return nil
	}
	pages := pagesIn(int(end - off))
	for i := range pages {
		// A page at the end is only the same if it ends where it did.
		first, last := off+int64(i)*ondisk.PageSize, off+int64(i+1)*ondisk.PageSize
		p.same[i] = last <= end || first < end && end == a.size && end == off+int64(n)
	}
	for at := off; at < end; {
		s, err := a.slices.cut(at, end)
		if err != nil {
			return err
		}
		if len(p.slices) == maxPast || !s.ID.IsZero() && !a.w.reusable([]ondisk.Slice{s}) {
			first, last := int(at-off)/ondisk.PageSize, pagesIn(int(at-off)+int(s.Len)) // within a region
			clear(p.same[first:last])
		} else {
			p.slices = append(p.slices, placed{s, at})
		}
		at += int64(s.Len) // within a region
	}
	return a.readHashes(p, off/ondisk.PageSize*ondisk.PageHash, pages)
}

// readHashes reads the hashes of n pages, the first of which is at off.
func (a *ancestor) readHashes(p *past, off int64, n int) error {
	buf := a.buf[:n*ondisk.PageHash]
	for at, end := off, off+int64(len(buf)); at < end; {
		s, err := a.hashes.cut(at, end)
		if err != nil {
			return err
		}
		part := buf[at-off:][:s.Len]
		at += int64(s.Len) // within the buffer
		if s.ID.IsZero() {
			clear(part)
			continue
		}
		if a.id != s.ID {
			if a.chunk, err = a.w.r.loader.get(a.ctx, s.ID, ondisk.KindPages); err != nil {
				return err
			}
			a.id = s.ID
		}
		if uint64(s.Off)+s.Len > uint64(len(a.chunk)) {
			return corrupt("", errors.New("slice of page hashes exceeds its chunk"))
		}
		copy(part, a.chunk[s.Off:])
	}
	for i := range n {
		p.hash[i] = binary.LittleEndian.Uint64(buf[i*ondisk.PageHash:])
	}
	return nil
}

// sliceCursor goes through the slices of a map, front to back.
type sliceCursor struct {
	next func() (ondisk.Slice, error, bool)
	stop func()
	cur  ondisk.Slice
	at   int64 // place of cur
}

func newSliceCursor(seq iter.Seq2[ondisk.Slice, error]) *sliceCursor {
	c := &sliceCursor{}
	c.next, c.stop = iter.Pull2(seq)
	return c
}

// cut returns the part of a slice that begins at off and ends at or before
// end. Offsets do not descend.
func (c *sliceCursor) cut(off, end int64) (ondisk.Slice, error) {
	for c.at+int64(c.cur.Len) <= off { // below 2^62
		c.at += int64(c.cur.Len) // below 2^62
		s, err, ok := c.next()
		if err == nil && !ok {
			err = corrupt("", errors.New("map is shorter than what it maps"))
		}
		if err != nil {
			return ondisk.Slice{}, malformed(err)
		}
		c.cur = s
	}
	return sub(placed{c.cur, c.at}, off, end), nil
}

// sub returns the part of s from off, which is within it, to end at most.
func sub(s placed, off, end int64) ondisk.Slice {
	out := s.Slice
	if !out.ID.IsZero() {
		out.Off += uint32(off - s.off) // within a chunk
	}
	out.Len = uint64(min(end, s.end()) - off) // not negative
	return out
}

// pagesIn returns how many pages n bytes touch.
func pagesIn(n int) int { return (n + ondisk.PageSize - 1) / ondisk.PageSize }
