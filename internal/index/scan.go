// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
)

// Scan reads sorted runs as one: their packs, numbered from 0, and their
// chunks in the order of the ids. What several runs say appears once. It takes
// memory for a block of each run, and 12 bytes a pack.
//
// A Scan is not safe for concurrent use, but one may be made of the same runs
// for each goroutine.
type Scan struct {
	runs   []Run
	number [][]uint32 // run and its number of a pack → ours
	origin []origin   // our number of a pack → a run and its number
}

type origin struct{ run, pack uint32 }

// NewScan reads the pack tables of the runs.
func NewScan(runs ...Run) (*Scan, error) {
	s := &Scan{runs: runs, number: make([][]uint32, len(runs))}
	for i, r := range runs {
		s.number[i] = make([]uint32, 0, r.packCount())
	}
	err := s.mergePacks(func(h head[PackInfo], again bool) error {
		if !again {
			s.origin = append(s.origin, origin{run: uint32(h.run), pack: uint32(len(s.number[h.run]))}) // few
		}
		s.number[h.run] = append(s.number[h.run], uint32(len(s.origin)-1)) // as few
		return nil
	})
	return s, err
}

// mergePacks calls fn with the packs of all runs in order. again says that the
// pack is the same as the last one.
func (s *Scan) mergePacks(fn func(h head[PackInfo], again bool) error) error {
	cursors := make([]cursor[PackInfo], len(s.runs))
	for i, r := range s.runs {
		cursors[i] = r.packCursor()
	}
	m, err := newMerger(cursors, func(a, b head[PackInfo]) bool { return comparePacks(a.at, b.at) < 0 })
	if err != nil {
		return err
	}
	var last PackInfo
	for first := true; ; first = false {
		h, ok := m.top()
		if !ok {
			return nil
		}
		if err := fn(h, !first && h.at == last); err != nil {
			return err
		}
		last = h.at
		if err := m.advance(); err != nil {
			return err
		}
	}
}

// Packs iterates over all packs in the order of their numbers.
func (s *Scan) Packs() iter.Seq2[PackInfo, error] {
	return func(yield func(PackInfo, error) bool) {
		err := s.mergePacks(func(h head[PackInfo], again bool) error {
			if !again && !yield(h.at, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(PackInfo{}, err)
		}
	}
}

// pack returns the pack with our number n.
func (s *Scan) pack(n uint32) (PackInfo, error) {
	o := s.origin[n]
	switch r := s.runs[o.run].(type) {
	case *Segment:
		return r.packs[o.pack], nil
	case *Table:
		p, err := r.pack(int(o.pack))
		if err != nil {
			return PackInfo{}, err
		}
		return *p, nil
	default:
		panic("index: a run of an unknown kind")
	}
}

// Chunk is a chunk with all its copies.
type Chunk struct {
	ID      ondisk.ID
	Ordinal int    // the place of its first record in the first run that has it, counted over all runs
	Copies  []Copy // valid until the next chunk
}

// Copy is where a chunk is: in the pack with this number.
type Copy struct {
	Pack  int
	Entry pack.Entry
}

// Chunks iterates over all chunks in the order of their ids. It stops after an
// error. In the scan of a Set, ordinals are those of the Set.
func (s *Scan) Chunks() iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		base := make([]int, len(s.runs)+1)
		for i, r := range s.runs {
			base[i+1] = base[i] + r.Len()
		}
		var c Chunk
		for h, err := range s.merged() {
			if err != nil {
				yield(Chunk{}, err)
				return
			}
			p, e := parseRecord(h.at)
			if len(c.Copies) > 0 && e.ID != c.ID {
				if !yield(c, nil) {
					return
				}
				c.Copies = c.Copies[:0]
			}
			if at := base[h.run] + h.n; len(c.Copies) == 0 || at < c.Ordinal {
				c.ID, c.Ordinal = e.ID, at
			}
			if n := len(c.Copies); n == 0 || c.Copies[n-1] != (Copy{int(p), e}) {
				c.Copies = append(c.Copies, Copy{int(p), e})
			}
		}
		if len(c.Copies) > 0 {
			yield(c, nil)
		}
	}
}

// InPacks returns the chunks of the packs that are wanted, in the order of
// their ids. It reads everything, and takes memory for what it returns.
func (s *Scan) InPacks(want func(ondisk.PackRef) bool) ([]Pack, error) {
	at := map[int]int{}
	var out []Pack
	n := 0
	for p, err := range s.Packs() {
		if err != nil {
			return nil, err
		}
		if want(p.Ref) {
			at[n] = len(out)
			out = append(out, Pack{PackInfo: p})
		}
		n++
	}
	for rec, err := range s.records() {
		if err != nil {
			return nil, err
		}
		p, e := parseRecord(rec)
		if i, ok := at[int(p)]; ok {
			out[i].Entries = append(out[i].Entries, e)
		}
	}
	return out, nil
}

// records iterates over the records of all runs, with our numbers of packs,
// each once. A record is valid until the next one.
func (s *Scan) records() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var last [recSize]byte
		first := true
		for h, err := range s.merged() {
			if err == nil && !first && bytes.Equal(last[:], h.at) {
				continue
			}
			first = false
			copy(last[:], h.at)
			if !yield(last[:], err) {
				return
			}
		}
	}
}

// merged iterates over the records of all runs in order, with our numbers of
// packs, and with where they come from. It stops after an error.
func (s *Scan) merged() iter.Seq2[head[[]byte], error] {
	return func(yield func(head[[]byte], error) bool) {
		cursors := make([]cursor[[]byte], len(s.runs))
		for i, r := range s.runs {
			cursors[i] = s.renumber(i, r.recCursor())
		}
		m, err := newMerger(cursors, func(a, b head[[]byte]) bool { return compareRecords(a.at, b.at) < 0 })
		for err == nil {
			h, ok := m.top()
			if !ok || !yield(h, nil) {
				return
			}
			err = m.advance()
		}
		yield(head[[]byte]{}, err)
	}
}

// renumber puts our numbers of packs for those of the run.
func (s *Scan) renumber(run int, next cursor[[]byte]) cursor[[]byte] {
	number := s.number[run]
	var buf [recSize]byte
	return func() ([]byte, bool, error) {
		r, ok, err := next()
		if !ok || err != nil {
			return nil, false, err
		}
		p := binary.LittleEndian.Uint32(r[32:])
		if int64(p) >= int64(len(number)) {
			return nil, false, fmt.Errorf("%w: pack %d of %d", ErrDamaged, p, len(number))
		}
		copy(buf[:], r)
		binary.LittleEndian.PutUint32(buf[32:], number[p])
		return buf[:], true, nil
	}
}
