// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/stillpoint-go/protect/internal/chunk"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

const (
	// region is the part of a large file that is looked at at once. It is also
	// the size of chunks of what is not cut by its content.
	region    = 1 << 20
	perRegion = region / ondisk.PageSize
	// pagedFile is the size from which on a file has page hashes.
	pagedFile = 1 << 20
	// longRun is the length from which on changed pages get chunks of their
	// own. Shorter runs share chunks.
	longRun = 256 << 10
)

// pageState says where the content of a page comes from.
type pageState uint8

const (
	changed pageState = iota // to be stored
	kept                     // the parent has it
	hole                     // zeros that are not stored
)

// view is a region of a file as its source shows it. A source says which pages
// it knows to be a hole, and which to be kept without being read.
type view struct {
	off    int64  // a multiple of region
	data   []byte // up to a region; that of unread pages is undefined
	state  [perRegion]pageState
	unread [perRegion]bool
	load   func(page []byte, off int64) error // reads an unread page
}

func (v *view) pages() int { return pagesIn(len(v.data)) }

// at returns where in the file a page begins, or the file ends.
func (v *view) at(page int) int64 { return v.off + int64(min(page*ondisk.PageSize, len(v.data))) }

func (v *view) page(i int) []byte { return v.bytes(i, i+1) }

func (v *view) bytes(first, end int) []byte {
	return v.data[first*ondisk.PageSize : min(end*ondisk.PageSize, len(v.data))]
}

// stretches iterates over maximal runs of pages of one state.
func (v *view) stretches() iter.Seq2[int, int] {
	return func(yield func(first, end int) bool) {
		for first, n := 0, v.pages(); first < n; {
			end := first + 1
			for end < n && v.state[end] == v.state[first] {
				end++
			}
			if !yield(first, end) {
				return
			}
			first = end
		}
	}
}

// pager stores large files, one after the other. Each is read once, region by
// region: pages that the parent has at the same place become slices of its
// chunks, short runs of changed pages are packed into shared chunks, and long
// runs are cut into chunks of their own. It needs some 10 MiB.
type pager struct {
	w      *Writer
	ctx    context.Context //nolint:containedctx // that of the reader which owns it
	hasher *seal.PageHasher
	cutter *chunk.Cutter
	win    []byte
	view   view
	past   past

	old    *ancestor // nil: all is new
	out    assembler
	hashes pageHashes
	off    int64 // end of what is done
	fixed  bool  // runs are cut at multiples of region
	run    int64 // length of the run of changed pages that goes on at off
	budget int64 // bytes that may be stored again for fewer pieces
	sample func() bool
}

func (w *Writer) newPager(ctx context.Context) *pager {
	p := &pager{w: w, ctx: ctx, hasher: w.r.keys.PageHasher(), win: make([]byte, region)}
	p.out.put, p.hashes.put = w.pk.put, w.pk.put
	p.cutter = chunk.NewCutter(w.table, func(data []byte) error { return p.out.store(data) })
	return p
}

// begin starts with the next file, of about size bytes. Old is what the parent
// has under its path, or nil.
func (p *pager) begin(old *ondisk.Entry, size int64) {
	p.close()
	if old != nil && !p.w.trusted {
		// If a part of it is lost, all of it is cut like a new file: so what was
		// cut like this before is stored as it was, for the points that lack it.
		if ok, err := p.w.intact(p.ctx, old); !ok || err != nil {
			old = nil
		}
	}
	p.old = p.w.newAncestor(p.ctx, old)
	put := p.w.putNode(ondisk.KindExtent)
	p.out.x = &extents{seed: p.w.cut, put: put}
	p.hashes.x = &extents{seed: p.w.cut, put: put}
	p.out.dense, p.out.queue, p.hashes.buf = p.out.dense[:0], p.out.queue[:0], p.hashes.buf[:0]
	_ = p.cutter.Rest() // of a file that was given up
	p.off, p.run, p.fixed, p.sample = 0, 0, false, nil
	p.budget = max(minRewrite, size/rewriteShare)
}

// close ends the use of the parent.
func (p *pager) close() {
	if p.old != nil {
		p.old.close()
		p.old = nil
	}
}

// finish stores what is open and completes the entry.
func (p *pager) finish(e *ondisk.Entry) error {
	defer p.close()
	if err := p.endRun(); err != nil {
		return err
	}
	if err := p.out.flush(); err != nil {
		return err
	}
	var err error
	e.Size = uint64(p.off) // not negative
	if e.Extents, e.Map, err = p.out.x.finish(); err != nil || e.Size < pagedFile {
		return err
	}
	e.Pages, err = p.hashes.finish()
	return err
}

// next returns the view of the n bytes, up to a region, behind what is done.
func (p *pager) next(n int64) *view {
	p.view = view{off: p.off, data: p.win[:n]}
	return &p.view
}

// hole passes over n zero bytes: whole regions, or all up to the end.
func (p *pager) hole(n int64) error {
	if err := p.endRun(); err != nil {
		return err
	}
	if err := p.out.add(ondisk.Slice{Len: uint64(n)}); err != nil { // not negative
		return err
	}
	p.off += n
	return p.hashes.zeros(ondisk.PagesLen(uint64(n)) / ondisk.PageHash) // not negative
}

// region stores the next part of the file.
func (p *pager) region(v *view) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	if v.off == 0 && !p.fixed {
		p.fixed = v.state[0] == changed && chunk.Paged(v.data)
	}
	if err := p.recall(v); err != nil {
		return err
	}
	hashes, err := p.compare(v)
	if err != nil {
		return err
	}
	if all := hashes[:v.pages()]; !anyNonzero(all) {
		for i := range all {
			v.state[i] = hole // whatever it was made of
		}
	}
	p.budget = gather(v, &p.past, p.budget)
	for i := range v.pages() {
		if v.state[i] == changed && v.unread[i] {
			if err := p.reread(v, i); err != nil {
				return err
			}
		}
		if err := p.hashes.add(hashes[i]); err != nil {
			return err
		}
	}
	if err := p.emit(v); err != nil {
		return err
	}
	p.off += int64(len(v.data))
	return nil
}

func anyNonzero(hashes []uint64) bool {
	for _, h := range hashes {
		if h != 0 {
			return true
		}
	}
	return false
}

// recall looks up what the parent has of a region. A damaged parent costs
// space, not the new recovery point.
func (p *pager) recall(v *view) error {
	p.past.slices = p.past.slices[:0]
	clear(p.past.same[:])
	if p.old == nil {
		return nil
	}
	err := p.old.region(&p.past, v.off, len(v.data))
	if errors.Is(err, ErrCorrupt) {
		p.w.r.log.Warn("a file of the parent is damaged and will not be reused", "error", err)
		p.close()
		p.past.slices = p.past.slices[:0]
		clear(p.past.same[:])
		return nil
	}
	return err
}

// compare decides for each page whether the parent's is kept, and returns the
// hashes.
func (p *pager) compare(v *view) (hashes [perRegion]uint64, err error) {
	for i := range v.pages() {
		if v.state[i] == kept && !p.past.same[i] {
			v.state[i] = changed // the parent's is damaged
			v.unread[i] = false
			if err := v.load(v.page(i), v.at(i)); err != nil {
				return hashes, err
			}
		}
		switch v.state[i] {
		case hole:
		case kept:
			hashes[i] = p.past.hash[i]
			if p.sample != nil && p.sample() {
				err = p.reread(v, i)
			}
		case changed:
			hashes[i] = p.hash(v.page(i))
			if p.past.same[i] && hashes[i] == p.past.hash[i] {
				v.state[i] = kept
			}
		}
		if err != nil {
			return hashes, err
		}
	}
	return hashes, nil
}

func (p *pager) hash(page []byte) uint64 {
	if isZero(page) {
		return 0
	}
	return p.hasher.Sum(page)
}

// reread reads a page that is said to be unchanged, and checks that it is.
func (p *pager) reread(v *view, i int) error {
	v.unread[i] = false
	if err := v.load(v.page(i), v.at(i)); err != nil {
		return err
	}
	if p.hash(v.page(i)) != p.past.hash[i] {
		return fmt.Errorf("%w: the page at offset %d has changed, but is not in the map of changed blocks", fs.ErrInvalid, v.at(i))
	}
	return nil
}

// emit appends the region to the file's extent map.
func (p *pager) emit(v *view) error {
	next := 0 // slice of the parent
	for first, end := range v.stretches() {
		var err error
		if v.state[first] == changed {
			err = p.extend(v.bytes(first, end))
		} else {
			err = p.endRun()
		}
		switch {
		case err != nil:
		case v.state[first] == hole:
			err = p.out.add(ondisk.Slice{Len: uint64(v.at(end) - v.at(first))}) // not negative
		case v.state[first] == kept:
			for at := v.at(first); at < v.at(end) && err == nil; {
				for p.past.slices[next].end() <= at {
					next++
				}
				s := sub(p.past.slices[next], at, v.at(end))
				at += int64(s.Len) // within a region
				err = p.out.add(s)
			}
		}
		if err != nil {
			return err
		}
	}
	if p.fixed {
		return p.endRun()
	}
	return nil
}

// extend appends changed pages to the run.
func (p *pager) extend(data []byte) error {
	p.run += int64(len(data))
	if p.fixed && p.run >= longRun {
		return p.out.store(data)
	}
	return p.cutter.Write(data)
}

// endRun stores what waits of a run.
func (p *pager) endRun() error {
	n := p.run
	p.run = 0
	if 0 < n && n < longRun {
		return p.out.pack(p.cutter.Rest())
	}
	return p.cutter.Flush()
}
