// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/tree"
)

// rawCopy takes over a volume from a repository with the same identity keys:
// its trees node by node, and the bodies of its chunks as they are.
type rawCopy struct {
	c *copier
	w *Writer
	g *errgroup.Group // reads and stores chunks

	parentFailed bool // to be read
}

// rawVolume copies a volume. What the session's parent has at the same place is
// there, and is passed over.
func (c *copier) rawVolume(ctx context.Context, w *Writer, v *Volume) (Volume, error) {
	var parent *Volume
	if w.trusted {
		parent = volumeOf(w.parent, v.Name)
	}
	for {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(fetchers)
		rc := &rawCopy{c: c, w: w, g: g}
		err := rc.entries(gctx, v.root, parent)
		// A failure of the group shows in the walk as a cancelled context.
		if gerr := g.Wait(); gerr != nil {
			return *v, gerr
		}
		if err = malformed(err); !rc.parentFailed || !errors.Is(err, ErrCorrupt) {
			return *v, err
		}
		w.r.log.Warn("the parent is damaged and will not be reused", "error", err)
		parent = nil
	}
}

// entries copies all entries that the parent does not have.
func (rc *rawCopy) entries(ctx context.Context, root ondisk.Root, parent *Volume) error {
	var old *ondisk.Root
	if parent != nil {
		old = &parent.root
	}
	for ch, err := range rc.changes(ctx, ondisk.KindTree, root, old) {
		if err != nil {
			return err
		}
		if ch.New == nil {
			continue
		}
		e, err := ondisk.DecodeEntry(ch.New)
		if err != nil {
			return err
		}
		was := &ondisk.Entry{}
		if ch.Old != nil {
			if was, err = ondisk.DecodeEntry(ch.Old); err != nil {
				rc.parentFailed = true
				return err
			}
		}
		if err := rc.content(ctx, e, was); err != nil {
			return err
		}
		if e.Type != ondisk.TypeDir {
			rc.w.files.Add(1)
		}
	}
	return nil
}

// content copies what an entry refers to.
func (rc *rawCopy) content(ctx context.Context, e, was *ondisk.Entry) error {
	if err := rc.slices(ctx, ondisk.KindData, e.Extents, e.Map, was.Map); err != nil || e.Pages == nil {
		return err
	}
	var old *ondisk.Root
	if was.Pages != nil {
		old = was.Pages.Map
	}
	return rc.slices(ctx, ondisk.KindPages, e.Pages.Extents, e.Pages.Map, old)
}

func (rc *rawCopy) slices(ctx context.Context, kind ondisk.Kind, list []ondisk.Slice, root, old *ondisk.Root) error {
	for _, s := range list {
		rc.chunk(ctx, kind, s.ID)
	}
	if root == nil {
		return nil
	}
	for ch, err := range rc.changes(ctx, ondisk.KindExtent, *root, old) {
		if err != nil {
			return err
		}
		if ch.New == nil {
			continue
		}
		d := ondisk.NewDecoder(ch.New)
		s := d.Slice()
		if err := d.Done(); err != nil {
			return err
		}
		rc.chunk(ctx, kind, s.ID)
	}
	return nil
}

// changes iterates over what a tree of the source has that the target's does
// not have, and copies its nodes on the way.
func (rc *rawCopy) changes(ctx context.Context, kind ondisk.Kind, root ondisk.Root, old *ondisk.Root) iter.Seq2[tree.Change, error] {
	now := tree.New(root, func(ctx context.Context, id ondisk.ID) ([]byte, error) { return rc.node(ctx, kind, id) })
	if old != nil {
		parent := tree.New(*old, func(ctx context.Context, id ondisk.ID) ([]byte, error) {
			b, err := rc.w.r.loader.get(ctx, id, kind)
			rc.parentFailed = rc.parentFailed || err != nil
			return b, err
		})
		return tree.Diff(ctx, parent, now)
	}
	return func(yield func(tree.Change, error) bool) {
		for rec, err := range now.From(ctx, nil) {
			if !yield(tree.Change{Key: rec.Key, New: rec.Value}, err) {
				return
			}
		}
	}
}

// node returns a node, after it has made sure that the target has it.
func (rc *rawCopy) node(ctx context.Context, kind ondisk.Kind, id ondisk.ID) ([]byte, error) {
	if rc.w.pk.claim(id) {
		return rc.take(ctx, kind, id)
	}
	if _, ok := rc.w.find(id); ok {
		b, err := rc.w.r.loader.get(ctx, id, kind)
		if !errors.Is(err, ErrCorrupt) {
			return b, err
		}
	}
	return rc.c.src.loader.get(ctx, id, kind)
}

// chunk makes sure that the target has a chunk.
func (rc *rawCopy) chunk(ctx context.Context, kind ondisk.Kind, id ondisk.ID) {
	if id.IsZero() || !rc.w.pk.claim(id) {
		return
	}
	rc.g.Go(func() error {
		_, err := rc.take(ctx, kind, id)
		return err
	})
}

// take copies a chunk and returns its plaintext. The caller has claimed it.
func (rc *rawCopy) take(ctx context.Context, kind ondisk.Kind, id ondisk.ID) ([]byte, error) {
	e, body, plain, ok := rc.c.src.body(ctx, kind, id)
	if ok {
		rc.w.bytes.Add(int64(len(plain)))
		return plain, rc.w.pk.addBody(e, body)
	}
	// It may have been moved; if not, this tells what is wrong.
	plain, err := rc.c.src.loader.get(ctx, id, kind)
	if err != nil {
		rc.w.pk.disclaim(id)
		return nil, err
	}
	rc.w.bytes.Add(int64(len(plain)))
	return plain, rc.w.pk.addClaimed(id, kind, plain)
}

// body returns the body of a chunk as it was sealed, besides the plaintext, both
// verified; or false if no copy of it can be read at the first attempt.
func (r *Repository) body(ctx context.Context, kind ondisk.Kind, id ondisk.ID) (e pack.Entry, body, plain []byte, ok bool) {
	all, err := r.find(ctx, id)
	if err != nil {
		return e, nil, nil, false
	}
	for _, at := range all {
		if at.Entry.Kind != kind {
			continue
		}
		sealed, err := r.store.GetRange(ctx, at.Pack.Ref.Key(), int64(at.Entry.Offset), int64(at.Entry.Sealed))
		if err != nil {
			continue
		}
		if body, plain, err = r.unseal(at, sealed); err == nil {
			return at.Entry, body, plain, true
		}
	}
	return e, nil, nil, false
}

// addBody seals the body of a chunk, verifies that and appends it to a pack. The
// caller has claimed the chunk.
func (p *packer) addBody(e pack.Entry, body []byte) error {
	sealed := p.chunks.Seal(nil, body, e.AAD())
	opened, err := p.chunks.Open(nil, sealed, e.AAD())
	if err != nil || !bytes.Equal(opened, body) {
		return faulty(err)
	}
	p.fresh.Add(int64(e.Plain))
	p.count.Add(1)
	return p.append(e, sealed)
}

// addClaimed stores a chunk that the caller has claimed.
func (p *packer) addClaimed(id ondisk.ID, kind ondisk.Kind, plain []byte) error {
	p.fresh.Add(int64(len(plain)))
	p.count.Add(1)
	bufs := p.r.buffers.Get().(*buffers) // our own pool
	defer p.r.buffers.Put(bufs)
	return p.add(id, kind, plain, bufs)
}
