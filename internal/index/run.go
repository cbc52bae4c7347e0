// SPDX-License-Identifier: Apache-2.0

package index

import (
	"container/heap"
	"slices"
)

// Run is a sorted list of packs and records: a *Segment or a *Table.
type Run interface {
	// Len returns the number of records.
	Len() int
	packCount() int
	packCursor() cursor[PackInfo]
	recCursor() cursor[[]byte]
	names() (covers, supersedes []Name)
}

// cursor returns one element after the other, and whether there was one. What
// it returned before is then no longer valid.
type cursor[T any] func() (T, bool, error)

func (s *Segment) packCount() int                     { return len(s.packs) }
func (s *Segment) names() (covers, supersedes []Name) { return []Name{s.name}, s.supersedes }

func (s *Segment) packCursor() cursor[PackInfo] {
	rest := s.packs
	return func() (p PackInfo, ok bool, err error) {
		if len(rest) == 0 {
			return p, false, nil
		}
		p, rest = rest[0], rest[1:]
		return p, true, nil
	}
}

func (s *Segment) recCursor() cursor[[]byte] {
	rest := s.recs
	return func() (r []byte, ok bool, err error) {
		if len(rest) == 0 {
			return nil, false, nil
		}
		r, rest = rest[:recSize], rest[recSize:]
		return r, true, nil
	}
}

func (t *Table) packCount() int                     { return t.packs }
func (t *Table) names() (covers, supersedes []Name) { return t.covers, t.supersedes }

func (t *Table) packCursor() cursor[PackInfo] {
	next := t.walk(0, t.packs, packSize, packsInBlock)
	return func() (PackInfo, bool, error) {
		b, ok, err := next()
		if !ok {
			return PackInfo{}, false, err
		}
		return parsePack(b), true, nil
	}
}

func (t *Table) recCursor() cursor[[]byte] {
	return t.walk(t.packBlocks(), t.recs, recSize, recsInBlock)
}

// walk reads n elements that start at a block.
func (t *Table) walk(block, n, size, each int) cursor[[]byte] {
	var buf *[blockSize]byte
	if t.file != nil {
		buf = new([blockSize]byte)
	}
	var b []byte
	i := 0
	return func() ([]byte, bool, error) {
		if i == n {
			return nil, false, nil
		}
		if i%each == 0 {
			var err error
			if b, err = t.block(block+i/each, buf); err != nil {
				return nil, false, err
			}
		}
		e := b[i%each*size:][:size]
		i++
		return e, true, nil
	}
}

// merger merges sorted runs. It keeps equal elements.
type merger[T any] struct {
	less  func(a, b head[T]) bool
	heads []head[T]
}

// head is the next element of a run.
type head[T any] struct {
	run  int
	n    int // elements of the run before it
	at   T
	next cursor[T]
}

func newMerger[T any](cursors []cursor[T], less func(a, b head[T]) bool) (*merger[T], error) {
	m := &merger[T]{less: less}
	for i, next := range cursors {
		at, ok, err := next()
		if err != nil {
			return nil, err
		}
		if ok {
			m.heads = append(m.heads, head[T]{run: i, at: at, next: next})
		}
	}
	heap.Init(m)
	return m, nil
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (m *merger[T]) Len() int           { return len(m.heads) }
func (m *merger[T]) Less(i, j int) bool { return m.less(m.heads[i], m.heads[j]) }
func (m *merger[T]) Swap(i, j int)      { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }
func (m *merger[T]) Push(x any)         { m.heads = append(m.heads, x.(head[T])) } //nolint:forcetypeassert // never called otherwise

func (m *merger[T]) Pop() any {
	last := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return last
}

// top returns the smallest element and its run, which is valid until advance.
func (m *merger[T]) top() (head[T], bool) {
	if len(m.heads) == 0 {
		return head[T]{}, false
	}
	return m.heads[0], true
}

// advance takes the top away.
func (m *merger[T]) advance() error {
	h := &m.heads[0]
	at, ok, err := h.next()
	if err != nil {
		return err
	}
	if !ok {
		heap.Pop(m)
		return nil
	}
	h.at = at
	h.n++
	heap.Fix(m, 0)
	return nil
}

// union returns the sorted union of names.
func union(lists ...[]Name) []Name {
	all := slices.Concat(lists...)
	slices.SortFunc(all, Name.Compare)
	return slices.Compact(all)
}

// Covered returns the names of the segments of which runs were made.
func Covered(runs ...Run) []Name {
	var all []Name
	for _, r := range runs {
		covers, _ := r.names()
		all = append(all, covers...)
	}
	return union(all)
}
