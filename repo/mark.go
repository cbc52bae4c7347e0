// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// markers is how many nodes are read at once.
const markers = 32

// marker finds out which chunks are needed: it visits every node of all trees
// once, and takes one bit for each chunk of the repository, two if sessions have
// pinned dead points. What it has marked stays so; marking again after the
// catalog was loaded again costs only what is new.
type marker struct {
	cat      *catalog
	progress func(done int64)
	runs     int

	live   bitset // reached from a live point: must be there
	pinned bitset // reached from a dead one, or a hint: is kept if it is there

	mu    sync.Mutex
	wake  *sync.Cond
	set   *bitset // the one that is being filled
	stack []node
	busy  int
	err   error
	done  int64
	hints []node             // reached from a live point, but nobody misses them
	lost  map[ondisk.ID]node // not in the catalog, or without a readable copy
}

// node is a chunk that is reached from a root. Of what is no node of a tree,
// only that it is needed counts.
type node struct {
	id     ondisk.ID
	kind   ondisk.Kind // of nodes
	height int8
}

// leafless is the height of chunks that hold no references.
const leafless = -1

func newMarker(cat *catalog, progress func(int64)) *marker {
	m := &marker{cat: cat, progress: progress, lost: map[ondisk.ID]node{}}
	m.wake = sync.NewCond(&m.mu)
	return m
}

// run marks what the view needs. If something that a live point needs cannot be
// read, the error matches ErrCorrupt, and the marks are not to be used again.
func (m *marker) run(ctx context.Context, v *rootView) error {
	m.runs++
	var roots []node
	for _, p := range v.live() {
		roots = append(roots, rootsOf(p)...)
	}
	if err := m.walk(ctx, &m.live, roots); err != nil {
		return err
	}
	for _, n := range m.takeLost() {
		return m.why(ctx, n)
	}
	roots = m.hints
	for _, p := range v.pins() {
		roots = append(roots, rootsOf(p)...)
	}
	err := m.walk(ctx, &m.pinned, roots)
	m.takeLost()
	m.hints = nil
	return err
}

// why returns what is wrong with a chunk that is lost.
func (m *marker) why(ctx context.Context, n node) error {
	if _, ok := m.cat.number(n.id); !ok {
		return &CorruptError{Chunk: n.id.String(), Err: errors.New("chunk is not in the index")}
	}
	if _, _, err := m.visit(ctx, n); err != nil {
		return err
	}
	return &CorruptError{Chunk: n.id.String(), Err: errors.New("chunk could not be read at first")}
}

func rootsOf(p *Point) []node {
	var roots []node
	for _, v := range p.Volumes {
		roots = append(roots, node{v.root.ID, ondisk.KindTree, int8(v.root.Height)}) // below MaxTreeHeight
	}
	return roots
}

func (m *marker) takeLost() []node {
	lost := slices.Collect(maps.Values(m.lost))
	clear(m.lost)
	return lost
}

// walk marks what is reached from the roots in the set. Nodes that are in it
// already have been visited.
func (m *marker) walk(ctx context.Context, set *bitset, roots []node) error {
	m.set, m.err = set, nil
	m.push(roots, m.numbers(roots)) // nobody else is at work yet
	var g errgroup.Group
	for range markers {
		g.Go(func() error { return m.work(ctx) })
	}
	return g.Wait()
}

// work visits nodes until all workers are out of work.
func (m *marker) work(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.wake.Broadcast()
	for {
		for len(m.stack) == 0 && m.busy > 0 && m.err == nil {
			m.wake.Wait()
		}
		if len(m.stack) == 0 || m.err != nil {
			m.stack = nil
			return m.err
		}
		// The last in, so that the stack does not hold whole levels.
		n := m.stack[len(m.stack)-1]
		m.stack = m.stack[:len(m.stack)-1]
		m.busy++
		m.mu.Unlock()
		next, hints, err := m.visit(ctx, n)
		numbers := m.numbers(next)
		m.mu.Lock()
		m.busy--
		m.done++
		switch {
		case errors.Is(err, ErrCorrupt):
			m.lose(n)
		case err != nil && m.err == nil:
			m.err = err
		}
		m.push(next, numbers)
		m.hints = append(m.hints, hints...)
		if m.done%1024 == 0 {
			m.progress(m.done)
		}
		m.wake.Broadcast()
	}
}

// numbers returns the numbers of chunks, -1 for those that are not known.
func (m *marker) numbers(nodes []node) []int {
	out := make([]int, len(nodes))
	for i, n := range nodes {
		var ok bool
		if out[i], ok = m.cat.number(n.id); !ok {
			out[i] = -1
		}
	}
	return out
}

// push marks chunks and takes those that have to be visited. What is reached
// from a live point needs no second visit. The caller holds the lock.
func (m *marker) push(nodes []node, numbers []int) {
	for i, n := range nodes {
		switch num := numbers[i]; {
		case num < 0:
			m.lost[n.id] = n
		case m.set != &m.live && m.live.has(num):
		case m.set.add(num) && n.height != leafless:
			m.stack = append(m.stack, n)
		}
	}
}

// lose takes the mark of a node that could not be read back, so that it can be
// tried again. The caller holds the lock.
func (m *marker) lose(n node) {
	m.lost[n.id] = n
	if i, ok := m.cat.number(n.id); ok {
		m.set.remove(i)
	}
}

// visit returns what a node refers to, and what it mentions as a hint.
func (m *marker) visit(ctx context.Context, n node) (next, hints []node, err error) {
	raw, err := m.cat.r.readFrom(ctx, m.cat.copies(n.id), n.id, n.kind)
	if err != nil {
		return nil, nil, err
	}
	recs, err := tree.Decode(raw, int(n.height))
	for _, rec := range recs {
		if err != nil {
			break
		}
		switch {
		case n.height > 0:
			next = append(next, node{ondisk.ID(rec.Value), n.kind, n.height - 1})
		case n.kind == ondisk.KindExtent:
			d := ondisk.NewDecoder(rec.Value)
			next = appendSlices(next, d.Slice())
			err = d.Done()
		default:
			var e *ondisk.Entry
			if e, err = ondisk.DecodeEntry(rec.Value); err == nil {
				next, hints = appendReferences(next, hints, e)
			}
		}
	}
	if err != nil {
		return nil, nil, &CorruptError{Chunk: n.id.String(), Err: err}
	}
	return next, hints, nil
}

// has reports whether the chunk with this number is marked.
func (m *marker) has(n int) bool { return m.live.has(n) || m.pinned.has(n) }

// appendReferences appends all chunks that an entry refers to, and those that it
// mentions as a hint for later sessions. What an entry may refer to must be
// here, or it gets deleted.
func appendReferences(refs, hints []node, e *ondisk.Entry) (_, _ []node) {
	refs = appendMap(appendSlices(refs, e.Extents...), e.Map)
	if p := e.Pages; p != nil {
		hints = appendMap(appendSlices(hints, p.Extents...), p.Map)
	}
	return refs, hints
}

func appendMap(nodes []node, root *ondisk.Root) []node {
	if root == nil {
		return nodes
	}
	return append(nodes, node{root.ID, ondisk.KindExtent, int8(root.Height)}) // below MaxTreeHeight
}

func appendSlices(nodes []node, list ...ondisk.Slice) []node {
	for _, s := range list {
		// Small files that follow each other share a chunk.
		if n := len(nodes); !s.ID.IsZero() && (n == 0 || nodes[n-1].id != s.ID) {
			nodes = append(nodes, node{s.ID, 0, leafless})
		}
	}
	return nodes
}

// bitset is a set of small numbers.
type bitset []uint64

// add reports whether i was not there before.
func (b *bitset) add(i int) bool {
	if w := i / 64; w >= len(*b) {
		*b = append(*b, make([]uint64, max(w+1, 2*len(*b))-len(*b))...)
	}
	word, bit := &(*b)[i/64], uint64(1)<<(i%64)
	fresh := *word&bit == 0
	*word |= bit
	return fresh
}

func (b bitset) remove(i int) { b[i/64] &^= 1 << (i % 64) }

func (b bitset) has(i int) bool { return i/64 < len(b) && b[i/64]>>(i%64)&1 == 1 }
