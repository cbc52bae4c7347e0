// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// catalog is the index as a collection needs it: all copies of a chunk, and a
// number for each chunk that does not change while more segments are read.
type catalog struct {
	r        *Repository
	tables   []*index.Table
	segments map[string][]ondisk.PackRef // by key: the packs that each knows
	indexed  map[ondisk.PackRef]bool     // the packs that any knows
	damage   map[string]error            // segments that cannot be read
}

func newCatalog(r *Repository) *catalog {
	return &catalog{r: r, segments: map[string][]ondisk.PackRef{}, indexed: map[ondisk.PackRef]bool{}, damage: map[string]error{}}
}

// load reads the segments that are new. One that is gone since it was listed is
// in another one by now, and a new listing shows it.
func (c *catalog) load(ctx context.Context) error {
	for range maxRounds {
		err := c.loadListed(ctx)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%s: segments vanish faster than they can be read", ondisk.IndexPrefix)
}

func (c *catalog) loadListed(ctx context.Context) error {
	var (
		mu       sync.Mutex
		segments [][]byte
		packs    = map[string][]ondisk.PackRef{}
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for o, err := range c.r.store.List(ctx, ondisk.IndexPrefix) {
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if _, known := c.segments[o.Key]; known {
			continue
		}
		g.Go(func() error {
			plain, refs, err := c.r.readSegment(gctx, o.Key)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrCorrupt):
				c.damage[o.Key] = err
				return nil
			case err != nil:
				return err
			}
			delete(c.damage, o.Key)
			segments = append(segments, plain)
			packs[o.Key] = refs
			return nil
		})
	}
	if err := g.Wait(); err != nil || len(segments) == 0 {
		return err
	}
	t, err := index.Build(segments)
	if err != nil {
		return err
	}
	c.tables = append(c.tables, t)
	for key, refs := range packs {
		c.segments[key] = refs
		for _, ref := range refs {
			c.indexed[ref] = true
		}
	}
	return nil
}

// readSegment returns a segment with the packs that it knows.
func (r *Repository) readSegment(ctx context.Context, key string) ([]byte, []ondisk.PackRef, error) {
	plain, err := r.getObject(ctx, key, ondisk.MaxSegment)
	if err != nil {
		return nil, nil, err
	}
	t, err := index.Build([][]byte{plain})
	if err != nil {
		return nil, nil, corrupt(key, err)
	}
	var refs []ondisk.PackRef
	for _, p := range t.Packs() {
		refs = append(refs, p.Ref)
	}
	return plain, refs, nil
}

// len returns how many records there are; the numbers of chunks are below it.
func (c *catalog) len() int {
	n := 0
	for _, t := range c.tables {
		n += t.Len()
	}
	return n
}

// number returns the number of a chunk.
func (c *catalog) number(id ondisk.ID) (int, bool) {
	base := 0
	for _, t := range c.tables {
		if i, ok := t.Ordinal(id); ok {
			return base + i, true
		}
		base += t.Len()
	}
	return 0, false
}

// id is the inverse of number.
func (c *catalog) id(n int) ondisk.ID {
	for _, t := range c.tables {
		if n < t.Len() {
			return t.At(n).Entry.ID
		}
		n -= t.Len()
	}
	return ondisk.ID{}
}

// copies iterates over the places where a chunk is said to be.
func (c *catalog) copies(id ondisk.ID) iter.Seq[index.Location] { return copiesIn(c.tables, id) }

// sealed iterates over all records: the pack, and the size of the sealed chunk.
func (c *catalog) sealed() iter.Seq2[ondisk.PackRef, int64] {
	return func(yield func(ondisk.PackRef, int64) bool) {
		for _, t := range c.tables {
			for i := range t.Len() {
				at := t.At(i)
				if !yield(at.Pack.Ref, int64(at.Entry.Sealed)) {
					return
				}
			}
		}
	}
}
