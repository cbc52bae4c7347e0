// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"iter"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// treeCopy feeds a volume of the source to a writer of the target, which cuts,
// names and packs its content anew.
type treeCopy struct {
	c    *copier
	t    *treeWriter
	base *entryCursor // the volume in the point that the parent is a copy of
}

// volume copies a volume. Base is what the writer's parent is a copy of, or
// nil: files that are the same in both are taken over from the parent, unread.
func (c *copier) volume(ctx context.Context, w *Writer, v, base *Volume) (Volume, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer c.ahead.Wait()
	defer cancel()
	t, err := w.newTreeWriter(ctx, v.Name)
	if err != nil {
		return Volume{}, err
	}
	tc := &treeCopy{c: c, t: t, base: c.src.newEntryCursor(ctx, base)}
	return t.run(ctx, func(emit func(*job) error) (int64, error) {
		defer tc.base.stop()
		return v.Skipped, tc.walk(ctx, v.root, emit)
	})
}

func (tc *treeCopy) walk(ctx context.Context, root ondisk.Root, emit func(*job) error) error {
	for rec, err := range tree.New(root, tc.c.src.loader.node(ondisk.KindTree)).From(ctx, nil) {
		if err != nil {
			return malformed(err)
		}
		path, err := ondisk.KeyPath(rec.Key)
		if err != nil {
			return corrupt("", err)
		}
		e, err := ondisk.DecodeEntry(rec.Value)
		if err != nil {
			return malformed(err)
		}
		j, err := tc.job(ctx, path, e)
		if err != nil {
			return err
		}
		if err := emit(j); err != nil {
			return err
		}
	}
	return nil
}

// job returns what is to be done for an entry of the source.
func (tc *treeCopy) job(ctx context.Context, path string, e *ondisk.Entry) (*job, error) {
	old, err := tc.t.parentEntry(path)
	if err != nil {
		return nil, err
	}
	j := &job{path: path, entry: e, inherited: true} // nobody will resume from it
	if e.Size == 0 {
		e.Pages = nil
		return j, nil
	}
	was, err := tc.base.entry(path)
	if err != nil {
		return nil, err
	}
	if old == nil || was != nil && was.Size != old.Size {
		was = nil
	}
	out := *e
	out.Hash, out.Extents, out.Map, out.Pages = ondisk.ID{}, nil, nil, nil
	j.entry = &out
	if was != nil && sameContent(was, e) {
		known, err := tc.t.w.trusted, error(nil)
		if !known {
			known, err = tc.t.w.intact(ctx, old)
		}
		if err != nil {
			return nil, err
		}
		if known {
			reuseContent(&out, old)
			out.Stat = e.Stat
			return j, nil
		}
	}
	j.old, j.done = old, make(chan struct{})
	if !e.Hash.IsZero() && e.Map == nil && e.Size <= smallFile {
		tc.c.prefetch(ctx, e.Extents...)
		j.read = func(ctx context.Context, _ **pager) error { return tc.readSmall(ctx, j, e) }
	} else {
		j.read = func(ctx context.Context, large **pager) error { return tc.readLarge(ctx, large, j, e, was) }
	}
	return j, nil
}

// readSmall reads the content of a small file.
func (tc *treeCopy) readSmall(ctx context.Context, j *job, e *ondisk.Entry) error {
	w, keys := tc.t.w, tc.c.src.keys
	data := w.smallBuffer(int(e.Size)) // small
	at := 0
	for _, s := range e.Extents {
		if err := tc.c.read(ctx, data[at:at+int(s.Len)], s); err != nil { // validated with the entry
			return err
		}
		at += int(s.Len) // see above
	}
	if keys.ChunkID(ondisk.KindData, data) != e.Hash {
		return corrupt("", errors.New("content of a small file does not match its hash"))
	}
	w.bytes.Add(int64(len(data)))
	j.small = data
	j.entry.Hash = w.r.keys.ChunkID(ondisk.KindData, data)
	return nil
}

// read fills b with the content of a slice of the source, or the beginning of
// that.
func (c *copier) read(ctx context.Context, b []byte, s ondisk.Slice) error {
	if s.ID.IsZero() {
		clear(b)
		return nil
	}
	data, err := c.src.loader.get(ctx, s.ID, ondisk.KindData)
	if err != nil {
		return err
	}
	if uint64(s.Off)+uint64(len(b)) > uint64(len(data)) {
		return &CorruptError{Chunk: s.ID.String(), Err: errors.New("slice exceeds its chunk")}
	}
	copy(b, data[s.Off:])
	return nil
}

// prefetch starts to read the chunks of slices that will be asked for soon,
// unless enough reads are under way. Whoever needs one of them waits for it;
// errors are theirs to find.
func (c *copier) prefetch(ctx context.Context, slices ...ondisk.Slice) {
	for _, s := range slices {
		if s.ID.IsZero() {
			continue
		}
		select {
		case c.fetching <- struct{}{}:
		default:
			return
		}
		c.ahead.Go(func() {
			defer func() { <-c.fetching }()
			_, _ = c.src.loader.get(ctx, s.ID, ondisk.KindData)
		})
	}
}

// entryCursor finds the entries of a volume for paths in ascending order.
type entryCursor struct {
	r    *Repository
	next func() (tree.Record, error, bool)
	stop func()
	rec  tree.Record
	ok   bool
}

// newEntryCursor returns a cursor over a volume; over nothing if that is nil.
func (r *Repository) newEntryCursor(ctx context.Context, v *Volume) *entryCursor {
	c := &entryCursor{r: r, stop: func() {}}
	if v != nil {
		c.next, c.stop = iter.Pull2(tree.New(v.root, r.loader.node(ondisk.KindTree)).From(ctx, nil))
		c.rec, c.ok = tree.Record{}, true // before the first
	}
	return c
}

// entry returns the entry at the path, or nil. A volume that is damaged has no
// more entries.
func (c *entryCursor) entry(path string) (*ondisk.Entry, error) {
	key := string(ondisk.PathKey(path))
	for c.ok && (c.rec.Value == nil || string(c.rec.Key) < key) {
		var err error
		if c.rec, err, c.ok = c.next(); err != nil {
			c.ok = false
			return nil, c.r.tolerate(malformed(err))
		}
	}
	if !c.ok || string(c.rec.Key) != key {
		return nil, nil // no entry, no error
	}
	e, err := ondisk.DecodeEntry(c.rec.Value)
	return e, c.r.tolerate(malformed(err))
}
