// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

const (
	// batchBytes bounds the segments that are read at the same time, and those
	// that are waiting to be merged.
	batchBytes = 32 << 20
	// maxMisses is how often a segment may be listed and not be there.
	maxMisses = 3
)

// refresh makes known where chunks are, as all index segments tell it. Damage
// does not stop it: it uses the others and returns an error that matches
// ErrCorrupt.
func (r *Repository) refresh(ctx context.Context) error {
	if err := r.lockIndex(ctx); err != nil {
		return err
	}
	defer r.unlockIndex()
	s := r.indexSet()
	tables := s.Tables()
	if s == nil {
		tables = r.savedTables()
	}
	return r.refreshFrom(ctx, tables)
}

// lockIndex makes the caller the one that changes what is known of the index.
// Two at once could put an older view in place of a newer one.
func (r *Repository) lockIndex(ctx context.Context) error {
	select {
	case r.refreshing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Repository) unlockIndex() { <-r.refreshing }

// indexSet returns what is known of the index; nil before the first refresh.
func (r *Repository) indexSet() *index.Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.index
}

// refreshFrom refreshes with tables to start from. The caller holds the lock
// of the index.
func (r *Repository) refreshFrom(ctx context.Context, tables []*index.Table) error {
	misses := map[index.Name]int{}
	for range maxRounds {
		u := &indexUpdate{r: r, tables: tables, misses: misses}
		err := u.run(ctx)
		tables = u.tables
		if errors.Is(err, index.ErrDamaged) {
			tables = r.dropFiles(tables, err)
			continue
		}
		if err != nil {
			return err
		}
		if u.vanished {
			continue // somebody has merged them: list again
		}
		r.mu.Lock()
		if r.mu.index == nil || !slices.Equal(r.mu.index.Tables(), tables) {
			r.mu.index = index.NewSet(tables...)
		}
		r.mu.Unlock()
		return errors.Join(u.damage...)
	}
	return fmt.Errorf("%s: objects vanish faster than they can be read", ondisk.IndexPrefix)
}

// indexUpdate is one attempt to bring tables up to date.
type indexUpdate struct {
	r          *Repository
	listed     map[index.Name]store.Object
	covered    map[index.Name]bool
	superseded map[index.Name]bool // by segments that are there
	tables     []*index.Table
	grow       bool                 // tables are added only
	seen       func(*index.Segment) // if set, is told of each that is read

	misses   map[index.Name]int // reads of what was listed and is not there
	batch    []index.Run
	bytes    int
	vanished bool
	damage   []error
}

func (u *indexUpdate) run(ctx context.Context) error {
	u.covered, u.superseded = map[index.Name]bool{}, map[index.Name]bool{}
	var err error
	if u.listed, err = u.r.listSegments(ctx); err != nil {
		return err
	}
	u.keep()
	var names []index.Name
	for n := range u.listed {
		if !u.covered[n] && !u.superseded[n] {
			names = append(names, n)
		}
	}
	// What supersedes others sorts after them: so read from the end, and then
	// only what is still needed.
	slices.SortFunc(names, func(a, b index.Name) int { return b.Compare(a) })
	for len(names) > 0 {
		n, size := 0, int64(0)
		for n < len(names) && names[n].Level == names[0].Level && n < fetchers {
			if size += u.listed[names[n]].Size; n > 0 && size > batchBytes {
				break
			}
			n++
		}
		if err := u.read(ctx, names[:n]); err != nil {
			return err
		}
		names = names[n:]
	}
	if err := u.flush(); err != nil || u.grow {
		return err
	}
	tables, err := u.r.mergeTables(u.tables)
	if err == nil {
		u.tables = tables
	}
	return err
}

// listSegments lists the index.
func (r *Repository) listSegments(ctx context.Context) (map[index.Name]store.Object, error) {
	listed := map[index.Name]store.Object{}
	for o, err := range r.store.List(ctx, ondisk.IndexPrefix) {
		if err != nil {
			return nil, err
		}
		if n, ok := index.ParseKey(o.Key); ok {
			listed[n] = o
		}
	}
	return listed, nil
}

// keep drops the tables that hold something of a segment that is gone: whoever
// deleted it may have dropped packs that were deleted, too. And it drops what is
// superseded or covered by larger tables as a whole.
func (u *indexUpdate) keep() {
	gone := func(n index.Name) bool { _, ok := u.listed[n]; return !ok }
	if !u.grow {
		u.dropIf(func(t *index.Table) bool { return slices.ContainsFunc(t.Covers(), gone) })
	}
	for _, t := range u.tables {
		for _, n := range t.Supersedes() {
			u.superseded[n] = true
		}
	}
	if u.grow {
		for _, t := range u.tables {
			u.cover(t.Covers())
		}
		return
	}
	u.dropIf(func(t *index.Table) bool {
		for _, n := range t.Covers() {
			if !u.superseded[n] && !u.covered[n] {
				u.cover(t.Covers())
				return false
			}
		}
		return true
	})
}

func (u *indexUpdate) cover(names []index.Name) {
	for _, n := range names {
		u.covered[n] = true
	}
}

func (u *indexUpdate) dropIf(drop func(*index.Table) bool) {
	var kept []*index.Table
	for _, t := range u.tables {
		if drop(t) {
			u.r.dropTable(t)
		} else {
			kept = append(kept, t)
		}
	}
	u.tables = kept
}

// read reads segments of one level, as far as they are not superseded.
func (u *indexUpdate) read(ctx context.Context, names []index.Name) error {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	// Before the first one is read: what is read adds to it.
	names = slices.DeleteFunc(slices.Clone(names), func(n index.Name) bool { return u.superseded[n] })
	for _, n := range names {
		g.Go(func() error {
			seg, err := u.r.getSegment(gctx, n)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, fs.ErrNotExist):
				if u.misses[n]++; u.misses[n] < maxMisses {
					u.vanished = true
				} else {
					u.damage = append(u.damage, corrupt(n.Key(), err))
				}
			case errors.Is(err, ErrCorrupt):
				u.damage = append(u.damage, err)
			case err != nil:
				return err
			default:
				u.add(seg)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if u.bytes >= batchBytes {
		return u.flush()
	}
	return nil
}

func (u *indexUpdate) add(seg *index.Segment) {
	u.batch = append(u.batch, seg)
	u.bytes += int(u.listed[seg.Name()].Size) // below MaxSegment
	for _, n := range seg.Supersedes() {
		u.superseded[n] = true
	}
	if u.seen != nil {
		u.seen(seg)
	}
}

// flush makes a table of what has been read.
func (u *indexUpdate) flush() error {
	if len(u.batch) == 0 {
		return nil
	}
	t, err := u.r.buildTable(u.batch...)
	if err != nil {
		return err
	}
	u.tables = append(slices.Clip(u.tables), t)
	u.batch, u.bytes = nil, 0
	return nil
}

func (r *Repository) getSegment(ctx context.Context, name index.Name) (*index.Segment, error) {
	key := name.Key()
	plain, err := r.getListed(ctx, key, ondisk.MaxSegment)
	if err != nil {
		return nil, err
	}
	seg, err := index.Decode(name, plain)
	if err != nil {
		return nil, corrupt(key, err)
	}
	return seg, nil
}

// addSegment makes a segment known that this process has stored.
func (r *Repository) addSegment(ctx context.Context, seg *index.Segment) error {
	if err := r.lockIndex(ctx); err != nil {
		return err
	}
	defer r.unlockIndex()
	t, err := r.buildTable(seg)
	if err != nil {
		return err
	}
	tables := append(slices.Clone(r.indexSet().Tables()), t)
	merged, err := r.mergeTables(tables)
	if errors.Is(err, index.ErrDamaged) {
		return r.refreshFrom(ctx, r.dropFiles(tables, err))
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.mu.index = index.NewSet(merged...)
	r.mu.Unlock()
	return nil
}

// find returns all places where the index says that a chunk is, those in packs
// that are known to be condemned last. That there are none is not an error.
func (r *Repository) find(ctx context.Context, id ondisk.ID) ([]index.Location, error) {
	all, err := ask(ctx, r, func(s *index.Set) ([]index.Location, error) { return s.Find(id) })
	if len(all) > 1 {
		slices.SortStableFunc(all, func(a, b index.Location) int {
			return cmp.Compare(b2i(r.knownCondemned(a.Pack.Ref)), b2i(r.knownCondemned(b.Pack.Ref)))
		})
	}
	return all, err
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// usable returns a place of the chunk in a pack that is not condemned, if there
// is one.
func (r *Repository) usable(ctx context.Context, id ondisk.ID, condemned func(ondisk.PackRef) bool) (index.Location, bool, error) {
	all, err := r.find(ctx, id)
	for _, l := range all {
		if !condemned(l.Pack.Ref) {
			return l, true, nil
		}
	}
	return index.Location{}, false, err
}

// again refreshes because a chunk is not where it should be, and reports
// whether anything is new.
func (r *Repository) again(ctx context.Context, seen *index.Set) (bool, error) {
	r.mu.Lock()
	now := r.mu.index
	r.mu.Unlock()
	if now != seen {
		return true, nil
	}
	if err := r.refresh(ctx); err != nil && !errors.Is(err, ErrCorrupt) {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.index != seen, nil
}
