// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// smallIndex is the number of records of an index that is worth being merged
// for a single pack that is gone.
const smallIndex = 64 << 10

// compactWithout is the collector's part of compaction: it merges all segments
// that the catalog knows, without the packs that are gone, if it is worth it.
// It reports whether it has stored anything, and returns the keys of segments
// that nobody needs any more: those that others supersede, and those that know
// only packs that are gone. What supersedes them was read back from the store.
func (r *Repository) compactWithout(ctx context.Context, cat *catalog, gone func(ondisk.PackRef) bool) (put bool, obsolete []string, err error) {
	if err := cat.load(ctx); err != nil { // what others have merged meanwhile, too
		return false, nil, err
	}
	listed, err := r.listSegments(ctx)
	if err != nil {
		return false, nil, err
	}
	c := cat.census(listed, gone)
	for _, n := range c.empty {
		obsolete = append(obsolete, n.Key())
	}
	small := cat.set.Len() < smallIndex
	if c.crowded || c.dead > 0 && (small || c.dead*4 >= c.packs) {
		put = true
		if err := r.mergeCatalog(ctx, cat, listed, gone); err != nil {
			return put, obsolete, err
		}
	}
	more, err := r.superseded(ctx, cat, listed)
	return put, append(obsolete, more...), err
}

// census counts what the segments say that are listed and not superseded.
type census struct {
	packs, dead int          // packs, those of several segments once for each
	crowded     bool         // there are too many segments of a level
	empty       []index.Name // segments that nobody would miss
}

func (c *catalog) census(listed map[index.Name]store.Object, gone func(ondisk.PackRef) bool) census {
	var out census
	owners := map[index.Name]bool{} // of what is still there
	for n := range listed {
		if o, ok := c.owner[n]; ok {
			owners[o] = true
		}
	}
	levels := map[uint8]int{0: 0}
	for n := range listed {
		refs, known := c.packs[n]
		if _, superseded := c.owner[n]; superseded || !known {
			continue
		}
		dead := 0
		for _, ref := range refs {
			if gone(ref) {
				dead++
			}
		}
		// Of mergers, the other parts and what was superseded count as well.
		if dead == len(refs) && (n.Level == 0 || dead == 0 && !owners[n]) {
			out.empty = append(out.empty, n)
			continue
		}
		out.dead, out.packs = out.dead+dead, out.packs+len(refs)
		if n.Level == 0 || n.Part == 0 {
			levels[n.Level]++
		}
	}
	out.crowded = slices.Max(slices.Collect(maps.Values(levels))) > crowd
	return out
}

// mergeCatalog stores the merger of all that the catalog knows.
func (r *Repository) mergeCatalog(ctx context.Context, cat *catalog, listed map[index.Name]store.Object, gone func(ondisk.PackRef) bool) error {
	var merged []index.Name
	level := uint8(1)
	for n := range listed {
		_, known := cat.packs[n]
		if _, superseded := cat.owner[n]; known || superseded {
			merged, level = append(merged, n), max(level, n.Level)
		}
	}
	var runs []index.Run
	for _, t := range cat.set.Tables() {
		runs = append(runs, t)
	}
	parts, err := r.putParts(ctx, newSegmentName(level, merged), index.Merge(ondisk.MaxSegment, merged, gone, runs...))
	if err != nil {
		return err
	}
	for _, n := range merged {
		cat.owner[n] = parts[len(parts)-1].name
	}
	return nil
}

// superseded returns the keys of listed segments that another one replaces,
// after it has read that one back.
func (r *Repository) superseded(ctx context.Context, cat *catalog, listed map[index.Name]store.Object) ([]string, error) {
	var keys []string
	sound := map[index.Name]bool{}
	for n := range listed {
		last, ok := cat.owner[n]
		if !ok {
			continue
		}
		for next, more := cat.owner[last]; more; next, more = cat.owner[last] {
			last = next
		}
		if _, checked := sound[last]; !checked {
			err := r.readBack(ctx, last)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
				return nil, err
			}
			if sound[last] = err == nil; err != nil {
				r.log.Warn("a merged index segment cannot be read, so what it supersedes stays", "object", last.Key(), "error", err)
			}
		}
		if sound[last] {
			keys = append(keys, n.Key())
		}
	}
	return keys, nil
}

// readBack reads all parts of a merger from the store.
func (r *Repository) readBack(ctx context.Context, last index.Name) error {
	for n := last; ; n.Part-- {
		plain, err := r.getObject(ctx, n.Key(), ondisk.MaxSegment)
		if err != nil {
			return err
		}
		if _, err := index.Decode(n, plain); err != nil {
			return corrupt(n.Key(), err)
		}
		if n.Part == 0 {
			return nil
		}
	}
}
