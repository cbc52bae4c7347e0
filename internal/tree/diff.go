// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"bytes"
	"context"
	"iter"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Change is a record that one of two trees has and the other has not, or that
// they have with different values.
type Change struct {
	Key      []byte
	Old, New []byte // values; nil where there is no record
}

// Diff iterates over what is different in b, in the order of the keys. It reads
// no node that both trees have at the same place, so that the work follows the
// change and not the size. It stops after an error.
func Diff(ctx context.Context, a, b *Tree) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		d := differ{old: newCursor(a), new: newCursor(b)}
		for !d.done() {
			c, changed, err := d.step(ctx)
			if err != nil {
				yield(Change{}, err)
				return
			}
			if changed && !yield(c, nil) {
				return
			}
		}
	}
}

type differ struct{ old, new *cursor }

func (d *differ) done() bool { return d.old.item() == nil && d.new.item() == nil }

// step goes on by one record or node. The tree that is behind moves; where both
// stand at the same key, equal nodes are skipped, and of others the higher one
// is entered first, so that they can meet again below.
func (d *differ) step(ctx context.Context) (Change, bool, error) {
	o, n := d.old.item(), d.new.item()
	order := 0
	switch {
	case n == nil:
		order = -1
	case o == nil:
		order = 1
	default:
		order = bytes.Compare(o.key, n.key)
	}
	switch {
	case order < 0 && o.height >= 0, order == 0 && o.height > n.height:
		return Change{}, false, d.old.enter(ctx)
	case order > 0 && n.height >= 0, order == 0 && n.height > o.height:
		return Change{}, false, d.new.enter(ctx)
	case order < 0:
		d.old.skip()
		return Change{Key: o.key, Old: o.value}, true, nil
	case order > 0:
		d.new.skip()
		return Change{Key: n.key, New: n.value}, true, nil
	case bytes.Equal(o.value, n.value):
		d.old.skip()
		d.new.skip()
		return Change{}, false, nil
	case o.height >= 0:
		return Change{}, false, d.old.enter(ctx)
	}
	d.old.skip()
	d.new.skip()
	return Change{Key: o.key, Old: o.value, New: n.value}, true, nil
}

// cursor walks over a tree and can pass over whole nodes.
type cursor struct {
	tree  *Tree
	stack []frame
}

// frame is a node that has been entered.
type frame struct {
	items []Record
	next  int
	// height is that of the items: -1 for records, else of the nodes that they
	// refer to.
	height int
	hi     []byte // keys are below; nil is no bound
}

// item is what a cursor stands at: a record, or a node whose id is the value.
type item struct {
	key, value []byte
	height     int // of the node; -1 for a record
}

func newCursor(t *Tree) *cursor {
	root := Record{Value: t.root.ID[:]}
	return &cursor{tree: t, stack: []frame{{items: []Record{root}, height: int(t.root.Height)}}}
}

// item returns where the cursor stands, or nil at the end.
func (c *cursor) item() *item {
	for n := len(c.stack); n > 0; n = len(c.stack) {
		if f := &c.stack[n-1]; f.next < len(f.items) {
			r := f.items[f.next]
			return &item{key: r.Key, value: r.Value, height: f.height}
		}
		c.stack = c.stack[:n-1]
	}
	return nil
}

// skip passes over the item.
func (c *cursor) skip() { c.stack[len(c.stack)-1].next++ }

// enter reads the node that the cursor stands at, and goes to its first item.
func (c *cursor) enter(ctx context.Context) error {
	f := &c.stack[len(c.stack)-1]
	r := f.items[f.next]
	in := bounds{lo: r.Key, hi: f.hi}
	f.next++
	if f.next < len(f.items) {
		in.hi = f.items[f.next].Key
	}
	recs, err := c.tree.node(ctx, ondisk.ID(r.Value), f.height, in)
	if err != nil {
		return err
	}
	c.stack = append(c.stack, frame{items: recs, height: f.height - 1, hi: in.hi})
	return nil
}
