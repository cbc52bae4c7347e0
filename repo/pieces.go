// SPDX-License-Identifier: Apache-2.0

package repo

import "github.com/stillpoint-go/protect/internal/ondisk"

// A file of which a few pages change again and again would end up scattered
// over as many chunks as it has pages. So the pieces of a region are bounded:
// where changes would leave more, the cheapest unchanged pages between them
// are stored once more, together with what changed.
const (
	// maxPieces is how many separate places a region may have its content in.
	maxPieces = 16
	// A session stores so many bytes of a file again at most for this: the
	// larger of the two. What is left is for the next session.
	minRewrite   = 64 << 20
	rewriteShare = 10 // one part in this many of the file
)

// piece is content of a region that is, or will be, in one place: holes in
// between do not count.
type piece struct {
	first, end int       // the pages that it touches
	kept       int64     // bytes that are stored already
	id         ondisk.ID // of the chunk; zero: changed pages
	next       uint64    // where in the chunk it ends
}

// pieces appends the pieces of a region to buf.
func pieces(buf []piece, v *view, old *past) []piece {
	next := 0 // slice of the parent
	for first, end := range v.stretches() {
		switch v.state[first] {
		case hole:
		case changed:
			if n := len(buf); n > 0 && buf[n-1].id.IsZero() {
				buf[n-1].end = end
			} else {
				buf = append(buf, piece{first: first, end: end})
			}
		case kept:
			for ; next < len(old.slices) && old.slices[next].end() <= v.at(first); next++ {
			}
			for ; next < len(old.slices) && old.slices[next].off < v.at(end); next++ {
				buf = appendKept(buf, v, old.slices[next], first, end)
			}
			next = max(next-1, 0) // it may go on behind a change
		}
	}
	return buf
}

// appendKept adds the part of a slice that lies within a stretch of pages.
func appendKept(buf []piece, v *view, s placed, first, end int) []piece {
	if s.ID.IsZero() {
		return buf
	}
	from := max(s.off, v.at(first))
	part := sub(s, from, v.at(end))
	p := piece{
		first: int(from-v.off) / ondisk.PageSize, end: pagesIn(int(from-v.off) + int(part.Len)), // within a region
		kept: int64(part.Len), id: s.ID, next: uint64(part.Off) + part.Len,
	}
	if n := len(buf); n > 0 && buf[n-1].id == p.id && buf[n-1].next == uint64(part.Off) {
		buf[n-1].end, buf[n-1].next = p.end, p.next
		buf[n-1].kept += p.kept
		return buf
	}
	return append(buf, p)
}

// gather marks pages of the region as changed until its pieces are few enough,
// or the budget of bytes is used up, and returns what is left of that.
func gather(v *view, old *past, budget int64) int64 {
	var buf [3 * perRegion]piece
	for budget > 0 {
		all := pieces(buf[:0], v, old)
		if len(all) <= maxPieces {
			break
		}
		// The fewest bytes for each piece less, joining two or three.
		best, size, cost := 0, 2, int64(1<<62)
		for i := range all[1:] {
			two := all[i].kept + all[i+1].kept
			if two < cost {
				best, size, cost = i, 2, two
			}
			if i+2 < len(all) && (two+all[i+2].kept)/2 < cost {
				best, size, cost = i, 3, (two+all[i+2].kept)/2
			}
		}
		for i := all[best].first; i < all[best+size-1].end; i++ {
			if v.state[i] == kept {
				v.state[i] = changed
				budget -= ondisk.PageSize
			}
		}
	}
	return budget
}
