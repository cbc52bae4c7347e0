// SPDX-License-Identifier: Apache-2.0

// Package tree stores a sorted sequence of records as a tree of chunks, whose
// node boundaries depend on the keys alone: two versions of a sequence share
// all nodes but those on the path to a change (a prolly tree). One structure
// serves the listing of a volume and the extent map of a large file.
//
// A node is a leaf of records, or holds the first key and the id of each
// child. Keys are strictly ascending over the whole tree. Readers check this,
// so that a malicious tree can neither loop nor expand.
package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Sizes of nodes in bytes. Between the two, one key in 2^cutBits ends a node.
const (
	minNode = 8 << 10
	maxNode = 128 << 10
	cutBits = 6
)

// maxKeys bounds the keys of one node together, in bytes. They are compressed:
// a node of the largest size could hold gigabytes. A Builder's nodes of paths
// of the largest length stay below half of it.
const maxKeys = 64 << 20

// ErrMalformed reports a tree that breaks the rules of the format.
var ErrMalformed = errors.New("malformed tree")

// Put stores the content of a node and returns its id.
type Put func(node []byte) (ondisk.ID, error)

// Get returns the content of a node.
type Get func(ctx context.Context, id ondisk.ID) ([]byte, error)

// Builder builds a tree from records in ascending order of keys.
type Builder struct {
	put    Put
	seed   uint64
	levels []level
	last   []byte
	any    bool
}

type level struct {
	buf   []byte // encoded records
	first []byte // key of the first one
	prev  []byte // key of the last one
	n     int    // records
}

// NewBuilder returns a builder that stores nodes with put and keys their
// boundaries with seed.
func NewBuilder(seed uint64, put Put) *Builder { return &Builder{put: put, seed: seed} }

// Add appends a record. Key must be greater than the one before; the first may
// be empty.
func (b *Builder) Add(key, value []byte) error {
	if b.any && bytes.Compare(key, b.last) <= 0 {
		return fmt.Errorf("tree: key %q does not follow %q", key, b.last)
	}
	if len(key) > ondisk.MaxPath {
		return fmt.Errorf("tree: key of %d bytes, more than %d", len(key), ondisk.MaxPath)
	}
	b.any = true
	b.last = append(b.last[:0], key...)
	return b.add(0, key, value)
}

func (b *Builder) add(h int, key, value []byte) error {
	if h == ondisk.MaxTreeHeight {
		return fmt.Errorf("tree: more than %d levels", ondisk.MaxTreeHeight)
	}
	if h == len(b.levels) {
		b.levels = append(b.levels, level{})
	}
	l := &b.levels[h]
	shared := 0
	if l.n == 0 {
		l.first = append(l.first[:0], key...)
	} else {
		shared = sharedPrefix(l.prev, key)
	}
	l.buf = ondisk.AppendUvarint(l.buf, uint64(shared)) // not negative
	l.buf = ondisk.AppendBytes(l.buf, key[shared:])
	l.buf = ondisk.AppendBytes(l.buf, value)
	l.prev = append(l.prev[:0], key...)
	l.n++
	// An inner node has at least two children, or a tree could grow for ever.
	if l.n > 1 && (len(l.buf) >= maxNode || len(l.buf) >= minNode && b.cuts(key)) {
		return b.flush(h)
	}
	return nil
}

func (b *Builder) flush(h int) error {
	l := &b.levels[h]
	node := make([]byte, 0, len(l.buf)+8)
	node = append(node, byte(h))
	node = ondisk.AppendUvarint(node, uint64(l.n)) // not negative
	node = append(node, l.buf...)
	if len(node) > ondisk.MaxNode {
		return fmt.Errorf("tree: a record of %d bytes is too large", len(l.buf))
	}
	id, err := b.put(node)
	if err != nil {
		return err
	}
	first := bytes.Clone(l.first)
	l.buf, l.n = l.buf[:0], 0
	return b.add(h+1, first, id[:])
}

// Finish stores the nodes that are still open and returns the root. A tree
// without records is an error.
func (b *Builder) Finish() (ondisk.Root, error) {
	if !b.any {
		return ondisk.Root{}, errors.New("tree: no records")
	}
	for h := 0; ; h++ {
		l := &b.levels[h]
		if l.n == 1 && h > 0 && h == len(b.levels)-1 {
			// The only child of the top level is the root itself.
			d := ondisk.NewDecoder(l.buf)
			_, _, _ = d.Uvarint(0), d.Bytes(ondisk.MaxNode), d.Uvarint(32)
			root := ondisk.Root{Height: uint8(h - 1)} // below MaxTreeHeight
			copy(root.ID[:], d.Fixed(32))
			return root, d.Done()
		}
		if l.n > 0 {
			if err := b.flush(h); err != nil {
				return ondisk.Root{}, err
			}
		}
	}
}

// cuts decides by the key whether it ends a node: FNV-1a with a secret start
// value and a final mix.
func (b *Builder) cuts(key []byte) bool { return Boundary(b.seed, key, cutBits) }

// Boundary reports for one key in 2^n, chosen by the seed, that something ends
// at it.
func Boundary(seed uint64, key []byte, n int) bool {
	h := seed ^ 0xcbf29ce484222325
	for _, c := range key {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return bits.LeadingZeros64(h) >= n
}

func sharedPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Record is a key with its value.
type Record struct {
	Key, Value []byte
}

// Tree reads a tree. It is safe for concurrent use if get is.
type Tree struct {
	root ondisk.Root
	get  Get
}

// New returns a reader of the tree at root.
func New(root ondisk.Root, get Get) *Tree { return &Tree{root: root, get: get} }

// node reads a node and checks that its keys are strictly ascending and within
// bounds.
func (t *Tree) node(ctx context.Context, id ondisk.ID, height int, in bounds) ([]Record, error) {
	if height >= ondisk.MaxTreeHeight {
		return nil, fmt.Errorf("%w: too high", ErrMalformed)
	}
	raw, err := t.get(ctx, id)
	if err != nil {
		return nil, err
	}
	recs, err := decode(raw, height, in)
	if err == nil && height < int(t.root.Height) && !bytes.Equal(recs[0].Key, in.lo) {
		err = fmt.Errorf("%w: keys out of order", ondisk.ErrMalformed)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: node %s: %w", ErrMalformed, id, err)
	}
	return recs, nil
}

// Decode decodes the content of one node: of height 0 the records, and of any
// other the first key and the id of each child. It checks the node alone, not
// its place in a tree. For whoever needs to know all nodes of many trees, each
// once, and nothing of their order.
func Decode(raw []byte, height int) ([]Record, error) {
	if height < 0 || height >= ondisk.MaxTreeHeight {
		return nil, fmt.Errorf("%w: too high", ErrMalformed)
	}
	recs, err := decode(raw, height, bounds{})
	if err != nil {
		return nil, fmt.Errorf("%w: node: %w", ErrMalformed, err)
	}
	return recs, nil
}

func decode(raw []byte, height int, in bounds) ([]Record, error) {
	d := ondisk.NewDecoder(raw)
	if len(raw) > ondisk.MaxNode {
		d.Fail("node too large")
	}
	if int(d.Byte()) != height {
		d.Fail("node height")
	}
	n := int(d.Uvarint(ondisk.MaxNode)) // bounded
	recs := make([]Record, 0, min(n, d.Len()/3))
	var prev []byte
	total := 0 // bytes of keys
	for i := range n {
		shared := int(d.Uvarint(uint64(len(prev)))) // bounded
		suffix := d.Bytes(ondisk.MaxPath)
		value := d.Bytes(ondisk.MaxNode)
		if d.Err() != nil {
			break
		}
		key := append(prev[:shared:shared], suffix...)
		total += len(key)
		switch {
		case i > 0 && (bytes.Compare(key, prev) <= 0 || shared != sharedPrefix(prev, key)),
			i == 0 && (shared != 0 || bytes.Compare(key, in.lo) < 0),
			in.hi != nil && bytes.Compare(key, in.hi) >= 0:
			d.Fail("keys out of order")
		case height > 0 && len(value) != len(ondisk.ID{}):
			d.Fail("child id")
		case len(key) > ondisk.MaxPath, total > maxKeys:
			d.Fail("keys too long")
		}
		if d.Err() != nil {
			break
		}
		recs = append(recs, Record{Key: key, Value: value})
		prev = key
	}
	if n == 0 {
		d.Fail("empty node")
	}
	return recs, d.Done()
}

// Get returns the value of key, or false.
func (t *Tree) Get(ctx context.Context, key []byte) ([]byte, bool, error) {
	for r, err := range t.From(ctx, key) {
		if err != nil {
			return nil, false, err
		}
		if bytes.Equal(r.Key, key) {
			return r.Value, true, nil
		}
		break
	}
	return nil, false, nil
}

// From iterates over the records with keys of at least from, in order. Who goes
// on after an error gets the records behind the node that could not be read.
func (t *Tree) From(ctx context.Context, from []byte) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		w := walker{tree: t, from: from}
		w.walk(ctx, t.root.ID, int(t.root.Height), bounds{}, yield)
	}
}

type walker struct {
	tree  *Tree
	from  []byte               // records below are left out
	enter func(ondisk.ID) bool // nil: every node
}

// bounds are the keys that a node may have: at least lo and below hi.
type bounds struct{ lo, hi []byte }

func (w *walker) walk(ctx context.Context, id ondisk.ID, height int, in bounds, yield func(Record, error) bool) bool {
	if w.enter != nil && !w.enter(id) {
		return true
	}
	recs, err := w.tree.node(ctx, id, height, in)
	if err != nil {
		return yield(Record{}, err)
	}
	for i, r := range recs {
		if height == 0 {
			if bytes.Compare(r.Key, w.from) >= 0 && !yield(r, nil) {
				return false
			}
			continue
		}
		child := bounds{lo: r.Key, hi: in.hi}
		if i+1 < len(recs) {
			child.hi = recs[i+1].Key
		}
		if child.hi != nil && bytes.Compare(child.hi, w.from) <= 0 {
			continue
		}
		if !w.walk(ctx, ondisk.ID(r.Value), height-1, child, yield) {
			return false
		}
	}
	return true
}

// Node is a place in a tree, with the bounds that its parent sets to its keys.
type Node struct {
	ID     ondisk.ID
	height int
	in     bounds
}

// End returns the key before which all keys of the node are, or nil if there is
// no bound.
func (n Node) End() []byte { return n.in.hi }

// Root returns the place of the root.
func (t *Tree) Root() Node { return Node{ID: t.root.ID, height: int(t.root.Height)} }

// Read reads one node: the records of a leaf, or the places of the children of
// an inner node. With it, a caller walks a tree in an order of its own.
func (t *Tree) Read(ctx context.Context, n Node) ([]Record, []Node, error) {
	recs, err := t.node(ctx, n.ID, n.height, n.in)
	if err != nil || n.height == 0 {
		return recs, nil, err
	}
	children := make([]Node, len(recs))
	for i, r := range recs {
		children[i] = Node{ID: ondisk.ID(r.Value), height: n.height - 1, in: bounds{lo: r.Key, hi: n.in.hi}}
		if i+1 < len(recs) {
			children[i].in.hi = recs[i+1].Key
		}
	}
	return nil, children, nil
}

// Walk visits the records of all nodes that enter admits, in order. enter is
// asked before a node is read; with it, a caller skips subtrees that it knows.
func (t *Tree) Walk(ctx context.Context, enter func(ondisk.ID) bool, fn func(Record) error) error {
	var failed error
	w := walker{tree: t, enter: enter}
	w.walk(ctx, t.root.ID, int(t.root.Height), bounds{}, func(r Record, err error) bool {
		if err == nil {
			err = fn(r)
		}
		failed = err
		return err == nil
	})
	return failed
}
