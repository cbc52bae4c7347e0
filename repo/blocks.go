// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Range is a part of a block volume, in bytes.
type Range struct{ Offset, Length int64 }

// BlockOptions say what is known of a block volume before it is read. Nil is
// the zero value: nothing, so that all of it is read.
type BlockOptions struct {
	// Parent is the ID of the recovery point that Changed is relative to. It
	// must be that of [Writer.Parent]. If it is empty, Changed must be.
	//
	// Of several sessions under one ID, another one than the caller's may have
	// committed the point, from another snapshot: let a label of the point say
	// which one it was made from, and take a map relative to that.
	Parent string
	// Changed are the ranges that may differ from what the parent stored, in any
	// order, within the volume; none at all means that nothing changed. What
	// the volume has grown by need not be among them.
	//
	// The map is trusted: a change that it leaves out is missing from the
	// recovery point and from all that build on it. See Sample.
	Changed []Range
	// Sample has one page of 16 KiB in so many of those that Changed leaves out
	// read and compared with the parent, at random, and the session fail if one
	// differs. 0 means 1024, which notices a map that misses a hundredth of the
	// pages of a volume of 10 GiB with a probability of 99.8 %; 1 reads
	// everything.
	Sample int
}

const defaultSample = 1024

// check returns the changed ranges in order, without overlaps.
func (o *BlockOptions) check(size int64) ([]Range, error) {
	if o.Sample < 0 || o.Parent == "" && len(o.Changed) > 0 {
		return nil, fmt.Errorf("%w: changed blocks without a parent, or a negative sample", fs.ErrInvalid)
	}
	sorted := slices.Clone(o.Changed)
	slices.SortFunc(sorted, func(a, b Range) int { return cmp.Compare(a.Offset, b.Offset) })
	merged := sorted[:0]
	for _, r := range sorted {
		if r.Offset < 0 || r.Length <= 0 || r.Offset > size-r.Length {
			return nil, fmt.Errorf("%w: changed range of %d bytes at %d in a volume of %d", fs.ErrInvalid, r.Length, r.Offset, size)
		}
		if n := len(merged); n > 0 && r.Offset <= merged[n-1].end() {
			merged[n-1].Length = max(merged[n-1].end(), r.end()) - merged[n-1].Offset
		} else {
			merged = append(merged, r)
		}
	}
	return merged, nil
}

func (r Range) end() int64 { return r.Offset + r.Length }

// Parent returns the recovery point on which the session builds: what it has
// is not stored again. It is nil if there is none.
func (w *Writer) Parent() *Point {
	if w.parent == nil {
		return nil
	}
	return w.parent.clone()
}

// PutBlocks stores the first size bytes of src, a block device or an image of
// one, as a volume that is one file.
//
// Content is stored in chunks of 1 MiB, and from then on in the pages of 16 KiB
// that changed, packed densely. Stretches of zeros of 1 MiB are not stored. If
// src is an io.Seeker that knows SEEK_DATA and SEEK_HOLE, as *os.File does on
// Unix, holes are not even read; its position moves.
//
// With a map of changed blocks, nothing else is read but the sample, the
// ranges rounded to pages, the last page, and now and then pages next to a
// change which are stored once more, lest the volume end up in too many pieces.
// Where the parent is damaged or has no such file, the volume is read. A map
// that turns out to be wrong, and options that contradict themselves, match
// fs.ErrInvalid. A src of fewer than size bytes is io.ErrUnexpectedEOF.
func (w *Writer) PutBlocks(ctx context.Context, volume string, src io.ReaderAt, size int64, opts *BlockOptions) error {
	var o BlockOptions
	if opts != nil {
		o = *opts
	}
	if o.Sample == 0 {
		o.Sample = defaultSample
	}
	changed, err := o.check(size)
	switch {
	case err != nil:
	case size < 0:
		err = fmt.Errorf("%w: size %d", fs.ErrInvalid, size)
	case o.Parent != "" && (w.parent == nil || w.parent.ID != o.Parent):
		err = fmt.Errorf("%w: point %q is not the parent of the session", fs.ErrInvalid, o.Parent)
	}
	if err != nil {
		return fmt.Errorf("volume %q: %w", volume, err)
	}
	return w.putFile(ctx, volume, func(p *pager, old *ondisk.Entry) error {
		p.begin(old, size)
		p.fixed = true
		var err error
		if o.Parent != "" && p.old != nil {
			p.sample = sampler(o.Sample)
			err = p.readChanged(src, size, changed)
		} else {
			err = p.readFile(holesOf(src), size, true)
		}
		switch {
		case err != nil || size == 0:
			return err
		case p.off < size:
			return io.ErrUnexpectedEOF
		}
		// Holes and what a map leaves out were not read: is all of it there?
		last := (size - 1) / ondisk.PageSize * ondisk.PageSize
		return p.readAt(src, p.win[:size-last], last)
	})
}

// holesOf returns src, which need not be able to seek.
func holesOf(src io.ReaderAt) fileReader {
	seeker, ok := src.(io.Seeker)
	if !ok {
		seeker = noSeeker{}
	}
	return struct {
		io.ReaderAt
		io.Seeker
	}{src, seeker}
}

// noSeeker knows no holes.
type noSeeker struct{}

func (noSeeker) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }

// sampler returns a function that is true once in n calls, nobody knows when.
func sampler(n int) func() bool {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails, see crypto/rand
	rng := rand.New(rand.NewChaCha8(seed))
	return func() bool { return rng.IntN(n) == 0 }
}

// readAt fills b.
func (p *pager) readAt(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	p.w.bytes.Add(int64(n))
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}

// readChanged reads the ranges of a volume that changed, which are in order,
// and what it has grown by.
func (p *pager) readChanged(src io.ReaderAt, size int64, ranges []Range) error {
	read := func(b []byte, off int64) error { return p.readAt(src, b, off) }
	grown := Range{p.old.size, size - p.old.size}
	for p.off < size {
		v := p.next(min(region, size-p.off))
		v.load = read
		end := p.off + int64(len(v.data))
		for i := range v.pages() {
			v.state[i], v.unread[i] = kept, true
		}
		for len(ranges) > 0 && ranges[0].end() <= v.off {
			ranges = ranges[1:]
		}
		for _, r := range ranges {
			if r.Offset >= end {
				break
			}
			v.mark(r)
		}
		v.mark(grown)
		for first, last := range v.stretches() {
			if v.state[first] == changed {
				if err := read(v.bytes(first, last), v.at(first)); err != nil {
					return err
				}
			}
		}
		if err := p.region(v); err != nil {
			return err
		}
	}
	return nil
}

// mark has the pages of the region that a range touches read.
func (v *view) mark(r Range) {
	from, to := max(r.Offset, v.off), min(r.end(), v.off+int64(len(v.data)))
	if from >= to {
		return
	}
	for i := int(from-v.off) / ondisk.PageSize; i < pagesIn(int(to-v.off)); i++ { // within a region
		v.state[i], v.unread[i] = changed, false
	}
}
