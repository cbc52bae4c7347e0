// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
)

// packInfo is what is known of a pack.
type packInfo struct {
	size   int64
	listed bool
	named  bool // by the index
	whole  bool // read in this verification: v.mu.bad has all that is damaged
	// bad is set if nothing in the pack can be used.
	bad *finding
}

// compare compares the packs that the index names with those that are there. It
// reports whether any that is not condemned is missing or of another size.
func (v *verifier) compare(ctx context.Context) (missing bool, err error) {
	packs, err := v.r.indexedPacks(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range packs {
		info := v.packs[p.Ref]
		if info == nil {
			info = &packInfo{}
			v.packs[p.Ref] = info
		}
		info.named = true
		var err error
		switch {
		case !info.listed:
			err = errors.New("pack is missing")
		case info.size != int64(p.Size):
			err = fmt.Errorf("pack has %d bytes instead of %d", info.size, p.Size)
		default:
			continue
		}
		// Others may have found it in the same state.
		info.bad = v.suspect(corrupt(p.Ref.Key(), err))
		missing = missing || !v.condemned.Has(p.Ref)
	}
	return missing, nil
}

// reportPacks reports the packs that are missing. Condemned ones may be.
func (v *verifier) reportPacks() {
	for ref, info := range v.packs {
		if info.bad != nil && !v.condemned.Has(ref) {
			v.found(info.bad.error())
		}
	}
}

// findUnindexed finds packs that no segment names. That of a session at work may
// come later; that of one that is over is looked for once more, since it may
// have ended since the index was read, and its packs been condemned since.
func (v *verifier) findUnindexed(ctx context.Context) error {
	if len(v.withoutIndex()) > 0 {
		if err := v.tolerate(v.r.refresh(ctx)); err != nil {
			return err
		}
		packs, err := v.r.indexedPacks(ctx)
		if err != nil {
			return err
		}
		for _, p := range packs {
			if info := v.packs[p.Ref]; info != nil {
				info.named = true
			}
		}
		v.condemned, err = v.r.readCondemned(ctx)
		if err := v.tolerate(err); err != nil {
			return err
		}
	}
	v.unindexed = nil
	for _, ref := range v.withoutIndex() {
		if !v.open[ref.Session] {
			v.unindexed = append(v.unindexed, ref.Key())
		}
	}
	v.reportIndex()
	return nil
}

// reportIndex reports that a part of the index is lost, if that shows: sessions
// commit only when all of their packs are in it.
func (v *verifier) reportIndex() {
	committed := map[[16]byte]bool{}
	for _, p := range v.roots.live() {
		committed[p.session] = true
	}
	lost := 0
	for _, ref := range v.withoutIndex() {
		if committed[ref.Session] {
			lost++
		}
	}
	v.mu.Lock()
	v.discard(func(f *finding) bool { return f.object == ondisk.IndexPrefix })
	v.mu.Unlock()
	if lost > 0 {
		v.found(corrupt(ondisk.IndexPrefix, fmt.Errorf("a part of the index is lost: it does not know %d packs of recovery points", lost)))
	}
}

// withoutIndex returns the packs that no segment names and that are not
// condemned, in order.
func (v *verifier) withoutIndex() []ondisk.PackRef {
	var refs []ondisk.PackRef
	for ref, info := range v.packs {
		if info.listed && !info.named && !v.condemned.Has(ref) {
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, comparePacks)
	return refs
}

// budgetShare is the share of all packs that VerifyData reads by default.
const budgetShare = 30

// readPacks reads packs whole: those whose turn it is, or all.
func (v *verifier) readPacks(ctx context.Context) error {
	sizes := map[ondisk.PackRef]int64{}
	var stored int64
	for ref, info := range v.packs {
		if info.listed && !v.condemned.Has(ref) {
			sizes[ref] = info.size
			stored += info.size
		}
	}
	ledger, old, err := v.r.readLedger(ctx)
	if err != nil {
		return err
	}
	budget := v.opts.Budget
	switch {
	case v.opts.Level == VerifyFull:
		budget = math.MaxInt64
	case budget == 0:
		budget = stored/budgetShare + 1
	}
	due := ledger.due(sizes, budget, randomPack())
	if !v.dry {
		defer func() { v.r.writeLedger(ctx, ledger, old) }() // also what was read before an error
	}
	if v.opts.Level == VerifyFull {
		for ref, info := range v.packs {
			if info.listed && v.condemned.Has(ref) { // something may still need it
				due = append(due, ref)
			}
		}
	}
	return v.readAll(ctx, due, func(ref ondisk.PackRef, state packState) {
		if _, ok := sizes[ref]; ok {
			ledger.note(ref, state)
		}
	})
}

// readAll reads packs and notes their states.
func (v *verifier) readAll(ctx context.Context, refs []ondisk.PackRef, note func(ondisk.PackRef, packState)) error {
	for _, ref := range refs {
		v.expect(1, v.packs[ref].size)
	}
	v.expect(int64(len(v.packs)-len(refs)), 0)
	v.progress(int64(len(v.packs)-len(refs)), 0) // compared with the index
	var gone atomic.Bool
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(verifiers)
	for _, ref := range refs {
		g.Go(func() error {
			info := v.packs[ref]
			state, err := v.readPack(gctx, ref, info)
			if errors.Is(err, fs.ErrNotExist) {
				gone.Store(true)
				err = v.vanished(gctx, ref.Key())
				if errors.Is(err, ErrCorrupt) {
					info.bad, state, err = v.damagedPack(ref, err), packDamaged, nil
				}
			}
			if err != nil {
				return err
			}
			v.mu.Lock()
			note(ref, state)
			v.packsRead++
			v.mu.Unlock()
			v.progress(1, info.size)
			return nil
		})
	}
	if err := g.Wait(); err != nil || !gone.Load() {
		return err
	}
	// Some have gone since they were listed. Were they condemned?
	if err := v.lookAgain(ctx); err != nil {
		return err
	}
	v.reportPacks()
	return nil
}

// damagedPack records that a pack cannot be used.
func (v *verifier) damagedPack(ref ondisk.PackRef, err error) *finding {
	if v.condemned.Has(ref) {
		return v.suspect(err)
	}
	return v.found(err)
}

// readPack reads a pack whole and opens every chunk.
func (v *verifier) readPack(ctx context.Context, ref ondisk.PackRef, info *packInfo) (packState, error) {
	key := ref.Key()
	data, err := v.r.read(ctx, key, ondisk.MaxPack)
	var entries []pack.Entry
	var at index.PackInfo
	if err == nil {
		at.Ref = ref
		if at.Key, entries, err = pack.Parse(v.r.keys, key, data); err != nil {
			err = corrupt(key, err)
		}
	}
	if errors.Is(err, ErrCorrupt) {
		info.bad = v.damagedPack(ref, err)
		return packDamaged, nil
	}
	if err != nil {
		return 0, err
	}
	state := packRead
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		agree, err := v.agrees(ctx, ref, e)
		if err != nil {
			return 0, err
		}
		if !agree {
			v.damagedPack(ref, corrupt(key, errors.New("index and footer of the pack disagree")))
			state = packDamaged
		}
		if _, err := v.r.open(index.Location{Pack: &at, Entry: e}, data[e.Offset:][:e.Sealed]); err != nil {
			f := v.damagedPack(ref, &CorruptError{Object: key, Chunk: e.ID.String(), Err: err})
			v.mu.Lock()
			v.mu.bad[chunkAt{ref, e.ID}] = f
			v.mu.Unlock()
			state = packDamaged
		}
	}
	info.whole = true
	return state, nil
}

// agrees reports whether the index says of a chunk what the footer of its pack
// does, if it knows it there.
func (v *verifier) agrees(ctx context.Context, ref ondisk.PackRef, e pack.Entry) (bool, error) {
	copies, err := v.r.find(ctx, e.ID)
	known := false
	for _, at := range copies {
		if at.Pack.Ref == ref {
			known = true
			if at.Entry == e {
				return true, nil
			}
		}
	}
	return !known, err
}

// lacks returns why a copy of a chunk cannot be used, or nil if it can, as far
// as this verification has looked.
func (v *verifier) lacks(at index.Location) *finding {
	info := v.packs[at.Pack.Ref]
	if info == nil { // it came after the listing
		return nil
	}
	if info.bad != nil {
		return info.bad
	}
	if !info.whole && v.condemned.Reason(at.Pack.Ref) == ondisk.Damaged {
		return v.suspect(corrupt(at.Pack.Ref.Key(), errors.New("the pack is condemned as damaged")))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.bad[chunkAt{at.Pack.Ref, at.Entry.ID}]
}
