// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// maxLayouts is how many regions of a file are looked ahead, to read chunks before
// they are needed.
const maxLayouts = 8

// readLarge copies the content of a large file through a pager of the target.
// Was is what the parent's entry is a copy of, or nil: pages that lie in the
// same place in both are the parent's, unread.
func (tc *treeCopy) readLarge(ctx context.Context, large **pager, j *job, e, was *ondisk.Entry) error {
	if *large == nil {
		*large = tc.t.w.newPager(ctx)
	}
	p := *large
	p.begin(j.old, int64(e.Size)) // below 2^62
	if p.old == nil {
		was = nil // the parent cannot tell its pages
	}
	f := &fileCopy{c: tc.c, ctx: ctx, size: int64(e.Size), now: newSliceCursor(tc.c.src.slices(ctx, e.Extents, e.Map))}
	defer f.now.stop()
	if was != nil {
		f.was, f.wasSize = newSliceCursor(tc.c.src.slices(ctx, was.Extents, was.Map)), int64(was.Size)
		defer f.was.stop()
	}
	for p.off < f.size {
		if err := f.feed(p); err != nil {
			return err
		}
	}
	return p.finish(j.entry)
}

// fileCopy reads a file of the source, region by region.
type fileCopy struct {
	c       *copier
	ctx     context.Context //nolint:containedctx // that of the reader which owns it
	now     *sliceCursor
	was     *sliceCursor // nil: nothing is known
	wasSize int64
	size    int64
	off     int64 // end of what was looked at
	queue   []layout
}

// layout says what a region of a file is made of.
type layout struct {
	off    int64
	n      int
	slices []placed
	state  [perRegion]pageState
	empty  bool // holes alone
}

// feed stores the next part of the file.
func (f *fileCopy) feed(p *pager) error {
	for f.off < f.size && len(f.queue) < maxLayouts {
		pl, err := f.look()
		if err != nil {
			return err
		}
		if pl.off == 0 {
			// Content that was cut at multiples of a region is so again.
			p.fixed = f.size > region && len(pl.slices) > 0 && f.now.cur.Len == region
		}
		f.queue = append(f.queue, pl)
	}
	pl := f.queue[0]
	f.queue = f.queue[1:]
	if pl.empty {
		return p.hole(int64(pl.n))
	}
	v := p.next(int64(pl.n))
	v.state = pl.state
	v.load = func(page []byte, off int64) error { return f.read(p, &pl, page, off) }
	for first, end := range v.stretches() {
		switch v.state[first] {
		case hole:
			clear(v.bytes(first, end))
		case kept:
			for i := first; i < end; i++ {
				v.unread[i] = true
			}
		case changed:
			if err := v.load(v.bytes(first, end), v.at(first)); err != nil {
				return err
			}
		}
	}
	return p.region(v)
}

// look looks at the next region, and has what will be needed of it read.
func (f *fileCopy) look() (layout, error) {
	pl := layout{off: f.off, n: int(min(region, f.size-f.off)), empty: true} // within a region
	f.off += int64(pl.n)
	for i := range pagesIn(pl.n) {
		at, end := pl.off+int64(i)*ondisk.PageSize, min(pl.off+int64(i+1)*ondisk.PageSize, f.off)
		pl.state[i] = hole
		same := true
		for at < end {
			s, err := f.now.cut(at, end)
			if err != nil {
				return pl, err
			}
			if n := len(pl.slices); n > 0 && continues(pl.slices[n-1].Slice, s) {
				pl.slices[n-1].Len += s.Len
			} else {
				pl.slices = append(pl.slices, placed{s, at})
			}
			if !s.ID.IsZero() {
				pl.state[i], pl.empty = changed, false
			}
			if same, err = f.same(same, s, at); err != nil {
				return pl, err
			}
			at += int64(s.Len) // within a region
		}
		if same && pl.state[i] == changed {
			pl.state[i] = kept
		}
	}
	for i, s := range pl.slices {
		if pl.needs(i) {
			f.c.prefetch(f.ctx, s.Slice)
		}
	}
	return pl, nil
}

// same reports whether what was the same so far is so up to the end of s, which
// is at at. A damaged base knows nothing.
func (f *fileCopy) same(so bool, s ondisk.Slice, at int64) (bool, error) {
	for start, end := at, at+int64(s.Len); so && at < end; { // within a region
		if f.was == nil || at >= f.wasSize {
			return false, nil
		}
		o, err := f.was.cut(at, min(end, f.wasSize))
		if err != nil {
			f.wasSize = 0
			return false, f.c.src.tolerate(err)
		}
		so = o.ID == s.ID && (s.ID.IsZero() || int64(o.Off) == int64(s.Off)+at-start)
		at += int64(o.Len) // see above
	}
	return so, nil
}

// needs reports whether content of a slice is going to be read.
func (pl *layout) needs(i int) bool {
	s := pl.slices[i]
	first, end := int(s.off-pl.off)/ondisk.PageSize, pagesIn(int(s.end()-pl.off)) // within a region
	return slices.Contains(pl.state[first:end], changed)
}

// read fills b with the content of the region from off on.
func (f *fileCopy) read(p *pager, pl *layout, b []byte, off int64) error {
	p.w.bytes.Add(int64(len(b)))
	for _, s := range pl.slices {
		if len(b) == 0 {
			break
		}
		if s.end() <= off {
			continue
		}
		n := min(int64(len(b)), s.end()-off)
		if err := f.c.read(f.ctx, b[:n], sub(s, off, off+n)); err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	return nil
}
