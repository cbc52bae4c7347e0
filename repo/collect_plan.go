// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// packUse is what a pack is good for, in bytes of sealed chunks.
type packUse struct {
	total int64 // all chunks
	live  int64 // chunks that are needed
	owned int64 // those of them for which no other pack counts
}

// use finds out what the packs are good for. Of several good copies of a chunk
// the one in the best used pack counts, so that the others become garbage.
func (c *collector) use(good func(ondisk.PackRef) bool) map[ondisk.PackRef]*packUse {
	uses := map[ondisk.PackRef]*packUse{}
	of := func(ref ondisk.PackRef) *packUse {
		u := uses[ref]
		if u == nil {
			u = &packUse{}
			uses[ref] = u
		}
		return u
	}
	for x := range c.cat.all(func(int) bool { return true }) {
		needed := c.marks.has(x.number)
		for _, at := range x.copies {
			u := of(at.Pack.Ref)
			u.total += int64(at.Entry.Sealed)
			if needed && good(at.Pack.Ref) {
				u.live += int64(at.Entry.Sealed)
			}
		}
	}
	for _, at := range c.owners(uses, good) {
		of(at.Pack.Ref).owned += int64(at.Entry.Sealed)
	}
	return uses
}

// owners iterates over the marked chunks that have a good copy: their numbers,
// and the copy that counts.
func (c *collector) owners(uses map[ondisk.PackRef]*packUse, good func(ondisk.PackRef) bool) iter.Seq2[int, index.Location] {
	return func(yield func(int, index.Location) bool) {
		for x := range c.cat.all(c.marks.has) {
			var best index.Location
			for _, at := range x.copies {
				if !good(at.Pack.Ref) {
					continue
				}
				if best.Pack == nil {
					best = at
					continue
				}
				a, b := uses[at.Pack.Ref], uses[best.Pack.Ref]
				if n := cmp.Compare(a.live*b.total, b.live*a.total); n > 0 || n == 0 && comparePacks(at.Pack.Ref, best.Pack.Ref) < 0 {
					best = at
				}
			}
			if best.Pack != nil && !yield(x.number, best) {
				return
			}
		}
	}
}

// plan is what a run is going to condemn.
type plan struct {
	garbage []ondisk.PackRef
	rewrite map[ondisk.PackRef]bool
	good    func(ondisk.PackRef) bool // packs on which one may rely
	uses    map[ondisk.PackRef]*packUse
}

// plan decides about each pack that was there before the view was read.
func (c *collector) plan(condemned *ondisk.PackSet) *plan {
	p := &plan{rewrite: map[ondisk.PackRef]bool{}}
	p.good = func(ref ondisk.PackRef) bool {
		_, there := c.world.packs[ref]
		return there && !condemned.Has(ref)
	}
	p.uses = c.use(p.good)
	open := map[[16]byte]bool{}
	for _, s := range c.view.open {
		open[s.id] = true
	}
	for _, ref := range slices.SortedFunc(maps.Keys(c.world.packs), comparePacks) {
		o := c.world.packs[ref]
		u := p.uses[ref]
		switch {
		case condemned.Has(ref): // a matter of the sweep
		case open[ref.Session]:
			c.note(o.Key, "keep", "its session may still commit", o.Size)
		case u == nil && len(c.cat.damage) > 0:
			c.note(o.Key, "keep", "the index does not know it, and parts of the index are damaged", o.Size)
		case u == nil && !c.old(o.ModTime):
			c.later = true
			c.note(o.Key, "keep", "the index does not know it yet", o.Size)
		case u == nil:
			c.note(o.Key, "condemn", fmt.Sprintf("left by session %x, which did not come to index it", ref.Session), o.Size)
			p.garbage = append(p.garbage, ref)
		case u.owned == 0:
			reason := "nothing in it is needed"
			if u.live > 0 {
				reason = "what is needed of it is elsewhere, too"
			}
			c.note(o.Key, "condemn", reason, o.Size)
			p.garbage = append(p.garbage, ref)
		case float64(u.owned) < c.o.Repack*float64(u.total):
			c.note(o.Key, "rewrite", fmt.Sprintf("%d of %d bytes are needed", u.owned, u.total), o.Size)
			p.rewrite[ref] = true
		}
	}
	return p
}

// decide makes a plan, and returns the chunks that are needed of the packs to be
// rewritten.
func (c *collector) decide(ctx context.Context, condemned *ondisk.PackSet) (*plan, []index.Location, error) {
	noted := len(c.rep.Items)
	for range maxViews {
		p := c.plan(condemned)
		var chunks []index.Location
		for _, at := range c.owners(p.uses, p.good) {
			if p.rewrite[at.Pack.Ref] {
				chunks = append(chunks, at)
			}
		}
		if !c.renew() {
			return p, chunks, nil
		}
		c.rep.Items = c.rep.Items[:noted]
		if err := c.mark(ctx); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errBusy
}

// condemnGarbage marks packs as condemned. The chunks that are needed of those
// to be rewritten are copied before that, so that a session which begins in
// between does not have to store them again.
func (c *collector) condemnGarbage(ctx context.Context, condemned *ondisk.PackSet) error {
	for key, err := range c.cat.damage {
		c.harm(key, err)
	}
	if err := c.tellTime(ctx); err != nil {
		return err
	}
	p, chunks, err := c.decide(ctx, condemned)
	if err != nil {
		return err
	}
	if n := len(p.garbage); float64(n) > c.o.MaxDelete*float64(len(c.world.packs)) {
		return c.refuse(n)
	}
	if c.o.DryRun {
		c.rep.Condemned = len(p.garbage) + len(p.rewrite)
		for _, ref := range p.garbage {
			c.rep.Freed += c.world.packs[ref].Size
		}
		return nil
	}
	if err := c.rewrite(ctx, p, chunks); err != nil {
		return err
	}
	for copied := range c.unreadable {
		delete(p.rewrite, copied.pack)
	}
	refs := slices.AppendSeq(p.garbage, maps.Keys(p.rewrite))
	if len(refs) == 0 {
		return nil
	}
	c.changed = true
	if err := c.r.condemn(ctx, ondisk.Garbage, refs...); err != nil {
		if c.full(err) {
			return nil
		}
		return err
	}
	c.rep.Condemned += len(refs)
	return nil
}

// rewrite copies the chunks that are needed of the packs to be rewritten. If
// there is no room for all of that, it tries half of the packs, of which least is
// needed: their deletion makes room for a later run.
func (c *collector) rewrite(ctx context.Context, p *plan, chunks []index.Location) error {
	for {
		err := c.copyOut(ctx, chunks)
		if !c.full(err) {
			return err
		}
		refs := slices.SortedFunc(maps.Keys(p.rewrite), func(a, b ondisk.PackRef) int {
			return cmp.Or(cmp.Compare(p.uses[a].owned, p.uses[b].owned), comparePacks(a, b))
		})
		for _, ref := range refs[len(refs)/2:] {
			c.note(ref.Key(), "keep", "there is no room to rewrite it", c.world.packs[ref].Size)
			delete(p.rewrite, ref)
		}
		chunks = slices.DeleteFunc(chunks, func(at index.Location) bool { return !p.rewrite[at.Pack.Ref] })
	}
}

// tellTime asks for the time if that may decide about a pack: one that the index
// does not know may be about to be indexed, or was left by a collector that died.
func (c *collector) tellTime(ctx context.Context) error {
	known := c.cat.known()
	for ref := range c.world.packs {
		if !known[ref] {
			return c.clock(ctx)
		}
	}
	return nil
}

// full reports whether there was no room for something that the run can do
// without: it deletes less then, and another one the rest.
func (c *collector) full(err error) bool {
	if !errors.Is(err, ErrFull) {
		return false
	}
	c.later, c.lacking = true, err
	c.r.log.Debug("there is no room for what a collection has to store", "error", err)
	return true
}

// harm reports damage that was met.
func (c *collector) harm(object string, err error) {
	c.later = true
	c.r.log.Warn("an object is damaged", "error", err)
	c.note(object, "damaged", err.Error(), 0)
}
