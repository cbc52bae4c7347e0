// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// catalog is the index as a collection needs it: all copies of a chunk, and a
// number for each chunk that does not change while more segments are read.
type catalog struct {
	r      *Repository
	set    *index.Set                      // grows at the end only
	damage map[string]error                // segments that cannot be read, by key
	packs  map[index.Name][]ondisk.PackRef // that each segment knows
	owner  map[index.Name]index.Name       // superseded segments, and by whom

	mu  sync.Mutex
	err error // of a table: what was asked since may have got wrong answers
}

func newCatalog(r *Repository) *catalog {
	return &catalog{r: r, damage: map[string]error{}, packs: map[index.Name][]ondisk.PackRef{}, owner: map[index.Name]index.Name{}}
}

// load reads the segments that are new. One that is gone since it was listed is
// in another one by now, and a new listing shows it.
func (c *catalog) load(ctx context.Context) error {
	misses := map[index.Name]int{}
	for range maxRounds {
		u := &indexUpdate{r: c.r, tables: c.set.Tables(), grow: true, misses: misses, seen: c.seen}
		if err := u.run(ctx); err != nil {
			return err
		}
		c.set = index.NewSet(u.tables...)
		if u.vanished {
			continue
		}
		clear(c.damage)
		for _, err := range u.damage {
			if e, ok := errors.AsType[*CorruptError](err); ok {
				c.damage[e.Object] = err
			}
		}
		return nil
	}
	return fmt.Errorf("%s: segments vanish faster than they can be read", ondisk.IndexPrefix)
}

// seen notes what a segment says of packs and of other segments.
func (c *catalog) seen(s *index.Segment) {
	var refs []ondisk.PackRef
	for _, p := range s.Packs() {
		refs = append(refs, p.Ref)
	}
	c.packs[s.Name()] = refs
	for _, n := range s.Supersedes() {
		c.owner[n] = s.Name()
	}
}

// known returns the packs that any segment knows, or knew.
func (c *catalog) known() map[ondisk.PackRef]bool {
	known := map[ondisk.PackRef]bool{}
	for _, refs := range c.packs {
		for _, ref := range refs {
			known[ref] = true
		}
	}
	return known
}

// close removes the files of tables that nobody else uses, or that are damaged.
func (c *catalog) close() {
	used := map[string]bool{}
	for _, t := range c.r.indexSet().Tables() {
		if !t.InMemory() {
			used[c.r.local.auth.FileName(t.Covers())] = true
		}
	}
	for _, t := range c.set.Tables() {
		if !t.InMemory() && (c.err != nil || !used[c.r.local.auth.FileName(t.Covers())]) {
			c.r.dropTable(t)
		}
	}
}

// failed remembers that a table could not be read.
func (c *catalog) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// check returns an error if the answers so far may be wrong. Nothing may be
// condemned or deleted because of them then.
func (c *catalog) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// number returns the number of a chunk.
func (c *catalog) number(id ondisk.ID) (int, bool) {
	n, ok, err := c.set.Ordinal(id)
	if err != nil {
		c.failed(err)
	}
	return n, ok
}

// copies returns the places where a chunk is said to be.
func (c *catalog) copies(id ondisk.ID) []index.Location {
	all, err := c.set.Find(id)
	if err != nil {
		c.failed(err)
	}
	return all
}

// catalogChunk is a chunk of the catalog.
type catalogChunk struct {
	id     ondisk.ID
	number int
	copies []index.Location // valid until the next chunk
}

// all iterates over all chunks for which want says so, given their numbers, in
// the order of their ids. It needs memory for all packs.
func (c *catalog) all(want func(int) bool) iter.Seq[catalogChunk] {
	return func(yield func(catalogChunk) bool) {
		scan, err := c.set.Scan()
		if err != nil {
			c.failed(err)
			return
		}
		var packs []*index.PackInfo
		for p, err := range scan.Packs() {
			if err != nil {
				c.failed(err)
				return
			}
			packs = append(packs, &p)
		}
		var x catalogChunk
		for chunk, err := range scan.Chunks() {
			if err != nil {
				c.failed(err)
				return
			}
			if !want(chunk.Ordinal) {
				continue
			}
			x.id, x.number, x.copies = chunk.ID, chunk.Ordinal, x.copies[:0]
			for _, at := range chunk.Copies {
				x.copies = append(x.copies, index.Location{Pack: packs[at.Pack], Entry: at.Entry})
			}
			if !yield(x) {
				return
			}
		}
	}
}
