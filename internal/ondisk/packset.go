// SPDX-License-Identifier: Apache-2.0

package ondisk

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Reason says why a pack is condemned. Of several reasons the highest counts.
type Reason uint8

// The reasons. Values are part of the format.
const (
	Garbage Reason = 1 // nothing in it is needed, or all of that is elsewhere
	Damaged Reason = 2 // it is missing or cannot be read
)

// packRun is a run of consecutive packs of one session.
type packRun struct {
	session     [16]byte
	first, last uint32
	reason      Reason
}

func (r packRun) compare(o packRun) int {
	return cmp.Or(bytes.Compare(r.session[:], o.session[:]), cmp.Compare(r.first, o.first))
}

// follows reports whether r continues o, as one longer run.
func (r packRun) follows(o packRun) bool {
	return r.session == o.session && r.reason == o.reason && uint64(r.first) == uint64(o.last)+1
}

// PackSet is an immutable set of condemned packs with their reasons, as runs of
// 28 bytes. Nil is empty.
type PackSet struct {
	runs []packRun // disjoint and as long as possible, in order
}

// NewPackSet returns the set of these packs, for one reason.
func NewPackSet(reason Reason, packs ...PackRef) *PackSet {
	runs := make([]packRun, 0, len(packs))
	for _, p := range packs {
		runs = append(runs, packRun{session: p.Session, first: p.Seq, last: p.Seq, reason: reason})
	}
	return &PackSet{runs: normalRuns(runs)}
}

// UnionPacks returns the union of sets.
func UnionPacks(sets ...*PackSet) *PackSet {
	var runs []packRun
	for _, s := range sets {
		if s != nil {
			runs = append(runs, s.runs...)
		}
	}
	return &PackSet{runs: normalRuns(runs)}
}

// normalRuns makes runs disjoint and as long as possible. It reorders its
// argument.
func normalRuns(runs []packRun) []packRun {
	slices.SortFunc(runs, packRun.compare)
	out := make([]packRun, 0, len(runs))
	for len(runs) > 0 {
		n := 1
		for end := runs[0].last; n < len(runs) && runs[n].session == runs[0].session && runs[n].first <= end; n++ {
			end = max(end, runs[n].last)
		}
		for _, r := range disjoint(runs[:n]) {
			if i := len(out) - 1; i >= 0 && r.follows(out[i]) {
				out[i].last = r.last
			} else {
				out = append(out, r)
			}
		}
		runs = runs[n:]
	}
	return slices.Clip(out)
}

// disjoint returns overlapping runs of one session as disjoint ones: the packs
// with the higher reason, and what is left of the others.
func disjoint(runs []packRun) []packRun {
	if len(runs) == 1 {
		return runs
	}
	var high, low, out []packRun
	for _, r := range runs { // in the order of first
		of := &low
		if r.reason == Damaged {
			of = &high
		}
		if i := len(*of) - 1; i >= 0 && r.first <= (*of)[i].last {
			(*of)[i].last = max((*of)[i].last, r.last)
		} else {
			*of = append(*of, r)
		}
	}
	for _, r := range low {
		at := uint64(r.first) // of what is left of r
		for _, h := range high {
			if h.last < r.first || h.first > r.last {
				continue
			}
			if uint64(h.first) > at {
				out = append(out, packRun{r.session, uint32(at), h.first - 1, r.reason}) // at is below h.first
			}
			at = uint64(h.last) + 1
		}
		if at <= uint64(r.last) {
			out = append(out, packRun{r.session, uint32(at), r.last, r.reason}) // at most r.last
		}
	}
	out = append(out, high...)
	slices.SortFunc(out, packRun.compare)
	return out
}

// Len returns the number of packs.
func (s *PackSet) Len() int64 {
	var n int64
	if s != nil {
		for _, r := range s.runs {
			n += int64(r.last) - int64(r.first) + 1
		}
	}
	return n
}

// find returns the run that the pack is in.
func (s *PackSet) find(p PackRef) (packRun, bool) {
	if s == nil {
		return packRun{}, false
	}
	i, ok := slices.BinarySearchFunc(s.runs, packRun{session: p.Session, first: p.Seq}, packRun.compare)
	if !ok {
		i-- // the run that starts before it
	}
	if i < 0 || s.runs[i].session != p.Session || s.runs[i].last < p.Seq {
		return packRun{}, false
	}
	return s.runs[i], true
}

// Has reports whether the pack is condemned, for whatever reason.
func (s *PackSet) Has(p PackRef) bool {
	_, ok := s.find(p)
	return ok
}

// Reason returns why the pack is condemned; 0 if it is not.
func (s *PackSet) Reason(p PackRef) Reason {
	r, _ := s.find(p)
	return r.reason
}

// Damaged reports whether any pack is condemned because it is damaged.
func (s *PackSet) Damaged() bool {
	return s != nil && slices.ContainsFunc(s.runs, func(r packRun) bool { return r.reason == Damaged })
}

// Covers reports whether all of other is in the set, for reasons at least as
// high.
func (s *PackSet) Covers(other *PackSet) bool {
	if other == nil {
		return true
	}
	for _, r := range other.runs {
		for at := uint64(r.first); at <= uint64(r.last); {
			have, ok := s.find(PackRef{Session: r.session, Seq: uint32(at)}) // at most r.last
			if !ok || have.reason < r.reason {
				return false
			}
			at = uint64(have.last) + 1
		}
	}
	return true
}

// maxRun is the longest encoding of a run that is the only one of its session.
const maxRun = 16 + 5 + 5 + 5 + 1

// Encode returns the plaintexts of the objects that hold the set, in order:
// none if it is empty. A session whose packs are all condemned takes 20 bytes.
func (s *PackSet) Encode() [][]byte {
	if s == nil {
		return nil
	}
	var out [][]byte
	for part := range slices.Chunk(s.runs, (MaxSet-16)/maxRun) {
		var body []byte
		sessions := 0
		for ; len(part) > 0; sessions++ {
			n := 1
			for n < len(part) && part[n].session == part[0].session {
				n++
			}
			body = appendRuns(body, part[:n])
			part = part[n:]
		}
		b := AppendUvarint([]byte{setVersion}, uint64(sessions)) // not negative
		out = append(out, append(b, body...))
	}
	return out
}

// appendRuns appends the runs of one session: each as its distance from the
// one before it, one less than its length, and its reason.
func appendRuns(b []byte, runs []packRun) []byte {
	b = append(b, runs[0].session[:]...)
	b = AppendUvarint(b, uint64(len(runs))) // not negative
	var at uint64
	for _, r := range runs {
		b = AppendUvarint(b, uint64(r.first)-at)
		b = AppendUvarint(b, uint64(r.last-r.first))
		b = append(b, byte(r.reason))
		at = uint64(r.last) + 1
	}
	return b
}

// DecodePackSet decodes one object of a set.
func DecodePackSet(b []byte) (*PackSet, error) {
	d, sessions := newSetDecoder(b)
	s := &PackSet{}
	for i := range sessions {
		start := len(s.runs)
		s.decodeRuns(d)
		if d.err != nil {
			break
		}
		if i > 0 && bytes.Compare(s.runs[start].session[:], s.runs[start-1].session[:]) <= 0 {
			d.fail("sessions out of order")
		}
	}
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("condemned set: %w", err)
	}
	return s, nil
}

func (s *PackSet) decodeRuns(d *Decoder) {
	var session [16]byte
	copy(session[:], d.Fixed(len(session)))
	n := int(d.Uvarint(MaxSet)) // bounded
	if n == 0 {
		d.fail("session without packs")
	}
	var at uint64
	for i := range n {
		first := at + d.Uvarint(math.MaxUint32)
		last := first + d.Uvarint(math.MaxUint32)
		reason := Reason(d.Byte())
		switch {
		case d.err != nil:
		case last > math.MaxUint32:
			d.fail("number of a pack")
		case reason != Garbage && reason != Damaged:
			d.fail("unknown reason")
		}
		if d.err != nil {
			return
		}
		r := packRun{session, uint32(first), uint32(last), reason} // bounded
		if i > 0 && r.follows(s.runs[len(s.runs)-1]) {
			d.fail("run is not as long as possible")
			return
		}
		s.runs = append(s.runs, r)
		at = last + 1
	}
}
