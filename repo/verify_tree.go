// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// Each goroutine of a walk holds one node for each level that it is in.
const (
	walkVolumes = 4  // volumes that are walked at once
	walkHelpers = 12 // further goroutines, for their subtrees
)

// maxVerifyLooks bounds how often damage is looked for, while collectors move things.
const maxVerifyLooks = 3

// checkPoints walks the trees of all points. Where something seems to be
// damaged it looks again with a new index, until the same is found twice:
// meanwhile points may have been forgotten, and chunks moved to other packs.
func (v *verifier) checkPoints(ctx context.Context) error {
	for look, before := 0, -1; ; look++ {
		v.forgive()
		if err := v.trees.points(ctx, v.livePoints()); err != nil {
			return err
		}
		n := v.affecting()
		if n == 0 || n == before || look == maxVerifyLooks {
			return nil
		}
		before = n
		if err := v.lookAgain(ctx); err != nil {
			return err
		}
		v.reportPacks()
	}
}

// treeWalk checks that the trees of volumes can be read, and that all their
// slices are within chunks that are there. A subtree that is in order is not
// visited again; one that is not is, to name all that it affects.
type treeWalk struct {
	v     *verifier
	slots chan struct{} // a token for each helper
	// heal, if set, is asked for chunks that are lost. It stores them again.
	heal func(ctx context.Context, id ondisk.ID, kind ondisk.Kind) ([]byte, error)

	mu    sync.Mutex
	clean map[visit]struct{}
	busy  map[visit]chan struct{} // closed when somebody's visit is over
}

// visit is a node at its place. The first half of the id will do: it is a keyed
// hash. For a node of an extent map it has the range of offsets, for others
// zeros.
type visit struct {
	id         [16]byte
	start, end uint64
}

func newTreeWalk(v *verifier) *treeWalk {
	return &treeWalk{v: v, slots: make(chan struct{}, walkHelpers), clean: map[visit]struct{}{}, busy: map[visit]chan struct{}{}}
}

func (w *treeWalk) points(ctx context.Context, points []*Point) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(walkVolumes)
	for _, p := range points {
		for _, vol := range p.Volumes {
			g.Go(func() error {
				t := tree.New(vol.root, w.get(ondisk.KindTree))
				_, err := w.node(ctx, t, t.Root(), place{point: p.ID, volume: vol.Name})
				return err
			})
		}
	}
	return g.Wait()
}

// once visits a node unless it is known to be in order. Of several goroutines
// that come to the same node, one goes on. They never wait in a circle: each
// waits for a node below those that it is visiting.
func (w *treeWalk) once(ctx context.Context, n visit, fn func() (bool, error)) (ok bool, err error) {
	for {
		w.mu.Lock()
		_, clean := w.clean[n]
		busy := w.busy[n]
		if !clean && busy == nil {
			busy = make(chan struct{})
			w.busy[n] = busy
			w.mu.Unlock()
			defer func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				if ok && err == nil {
					w.clean[n] = struct{}{}
				}
				delete(w.busy, n)
				close(busy)
			}()
			return fn()
		}
		w.mu.Unlock()
		if clean {
			return true, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// each calls fn for some children of a node, several at a time if there are
// helpers.
func (w *treeWalk) each(ctx context.Context, children []tree.Node, fn func(context.Context, int) (bool, error)) (bool, error) {
	g, ctx := errgroup.WithContext(ctx)
	var bad atomic.Bool
	for i := range children {
		do := func() error {
			ok, err := fn(ctx, i)
			if !ok {
				bad.Store(true)
			}
			return err
		}
		select {
		case w.slots <- struct{}{}:
			g.Go(func() error {
				defer func() { <-w.slots }()
				return do()
			})
		default:
			if err := do(); err != nil {
				return false, errors.Join(err, g.Wait())
			}
		}
	}
	err := g.Wait()
	return !bad.Load() && err == nil, err
}

// node checks a node of a volume's tree and everything below it.
func (w *treeWalk) node(ctx context.Context, t *tree.Tree, n tree.Node, at place) (bool, error) {
	return w.once(ctx, visit{id: [16]byte(n.ID[:16])}, func() (bool, error) {
		records, children, err := t.Read(ctx, n)
		if err != nil {
			return false, w.blame(err, at)
		}
		ok, err := w.each(ctx, children, func(ctx context.Context, i int) (bool, error) { return w.node(ctx, t, children[i], at) })
		if err != nil {
			return false, err
		}
		for _, rec := range records {
			fine, err := w.record(ctx, rec, at)
			if err != nil {
				return false, err
			}
			ok = ok && fine
		}
		return ok, nil
	})
}

func (w *treeWalk) record(ctx context.Context, rec tree.Record, at place) (bool, error) {
	var e *ondisk.Entry
	p, err := ondisk.KeyPath(rec.Key)
	if err == nil {
		e, err = ondisk.DecodeEntry(rec.Value)
	}
	if err != nil {
		return false, w.blame(err, at)
	}
	at.path = p
	ok, err := w.content(ctx, ondisk.KindData, e.Extents, e.Map, e.Size, at)
	if err != nil || e.Pages == nil {
		return ok, err
	}
	at.hashes = true
	fine, err := w.content(ctx, ondisk.KindPages, e.Pages.Extents, e.Pages.Map, ondisk.PagesLen(e.Size), at)
	return ok && fine, err
}

// content checks a list of slices of chunks of one kind, or those in the tree
// at root, which must have size bytes.
func (w *treeWalk) content(ctx context.Context, kind ondisk.Kind, list []ondisk.Slice, root *ondisk.Root, size uint64, at place) (bool, error) {
	if root != nil {
		t := tree.New(*root, w.get(ondisk.KindExtent))
		return w.extents(ctx, t, t.Root(), kind, 0, size, at)
	}
	ok, sum := true, uint64(0)
	for _, s := range list {
		fine, err := w.slice(ctx, kind, s, at)
		if err != nil {
			return false, err
		}
		ok = ok && fine
		sum += s.Len
	}
	if sum != size {
		return false, w.blame(errExtents, at)
	}
	return ok, nil
}

var errExtents = corrupt("", errors.New("extent map does not match the size"))

// extents checks a node of an extent map, which must map start to end.
func (w *treeWalk) extents(ctx context.Context, t *tree.Tree, n tree.Node, kind ondisk.Kind, start, end uint64, at place) (bool, error) {
	here := visit{id: [16]byte(n.ID[:16]), start: start, end: end}
	if kind == ondisk.KindPages {
		here.end |= 1 << 63 // no size is so large
	}
	return w.once(ctx, here, func() (bool, error) {
		records, children, err := t.Read(ctx, n)
		if err != nil {
			return false, w.blame(err, at)
		}
		ok := true
		if len(children) > 0 {
			starts, good := offsets(children, start, end)
			if !good {
				return false, w.blame(errExtents, at)
			}
			return w.each(ctx, children, func(ctx context.Context, i int) (bool, error) {
				return w.extents(ctx, t, children[i], kind, starts[i], starts[i+1], at)
			})
		}
		for _, rec := range records {
			s, err := decodeExtent(rec, start)
			if err != nil {
				return false, w.blame(err, at)
			}
			fine, err := w.slice(ctx, kind, s, at)
			if err != nil {
				return false, err
			}
			ok = ok && fine
			start += s.Len
		}
		if start != end {
			return false, w.blame(errExtents, at)
		}
		return ok, nil
	})
}

// offsets returns where in the file the children begin, and where the last one
// ends.
func offsets(children []tree.Node, start, end uint64) ([]uint64, bool) {
	out := []uint64{start}
	for _, c := range children[:len(children)-1] {
		key := c.End()
		if len(key) != 8 {
			return nil, false
		}
		off := binary.BigEndian.Uint64(key)
		if off <= out[len(out)-1] || off >= end {
			return nil, false
		}
		out = append(out, off)
	}
	return append(out, end), true
}

// slice checks that a slice is within a chunk that is there.
func (w *treeWalk) slice(ctx context.Context, kind ondisk.Kind, s ondisk.Slice, at place) (bool, error) {
	if s.ID.IsZero() {
		return true, nil
	}
	if kind == ondisk.KindPages {
		if ok, err := w.hashes(ctx, s.ID, at); !ok || err != nil {
			return false, err
		}
	}
	copies, err := w.v.r.find(ctx, s.ID)
	if err != nil {
		return false, err
	}
	var why *finding
	for _, l := range copies {
		f := w.v.lacks(l)
		if f == nil && (l.Entry.Kind != kind || uint64(s.Off)+s.Len > uint64(l.Entry.Plain)) {
			f = w.v.doubt(&CorruptError{Object: l.Pack.Ref.Key(), Chunk: s.ID.String(), Err: errors.New("slice does not fit its chunk")})
		}
		if f == nil {
			return true, nil
		}
		why = better(why, f)
	}
	if w.heal != nil {
		plain, err := w.heal(ctx, s.ID, kind)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return false, err
		}
		if err == nil && uint64(s.Off)+s.Len <= uint64(len(plain)) {
			return true, nil
		}
	}
	if why == nil {
		why = w.v.doubt(&CorruptError{Chunk: s.ID.String(), Err: errors.New("chunk is not in the index")})
	}
	w.v.affects(why, at)
	return false, nil
}

// hashes reads a chunk of page hashes, which is metadata.
func (w *treeWalk) hashes(ctx context.Context, id ondisk.ID, at place) (bool, error) {
	return w.once(ctx, visit{id: [16]byte(id[:16]), end: math.MaxUint64}, func() (bool, error) {
		if _, err := w.get(ondisk.KindPages)(ctx, id); err != nil {
			return false, w.blame(err, at)
		}
		return true, nil
	})
}

// better returns the one of two reasons that is news.
func better(a, b *finding) *finding {
	if a == nil || a.hidden && !b.hidden {
		return b
	}
	return a
}

// get returns a reader of tree nodes of one kind.
func (w *treeWalk) get(kind ondisk.Kind) tree.Get {
	read := w.v.r.loader.node(kind)
	return func(ctx context.Context, id ondisk.ID) ([]byte, error) {
		plain, err := read(ctx, id)
		if err == nil || !errors.Is(err, ErrCorrupt) {
			return plain, err
		}
		if w.heal != nil {
			plain, herr := w.heal(ctx, id, kind)
			if herr == nil || !errors.Is(herr, ErrCorrupt) {
				return plain, herr
			}
		}
		// It may be known what is wrong with the pack.
		copies, ferr := w.v.r.find(ctx, id)
		if ferr != nil {
			return nil, ferr
		}
		for _, l := range copies {
			if f := w.v.lacks(l); f != nil {
				return nil, f.error()
			}
		}
		return nil, err
	}
}

// blame records that damage affects a place. Other errors are returned.
func (w *treeWalk) blame(err error, at place) error {
	if err = malformed(err); !errors.Is(err, ErrCorrupt) {
		return err
	}
	w.v.affects(w.v.doubt(err), at)
	return nil
}
