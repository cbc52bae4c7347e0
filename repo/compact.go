// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// Every session adds segments to the index. When there are more than crowd of
// one level, the next session that commits merges them into one of the level
// above: so their number grows with the logarithm of that of the sessions, and
// each record is written as often. Writers do not delete: what is superseded
// stays until a collector comes, and is not read any more.
const (
	crowd = 8
	// compactBytes bounds what a session reads and writes to compact the index.
	// Mergers that take more are left to collectors.
	compactBytes = 32 << 20
	// compactTimeout bounds how long that may take.
	compactTimeout = 2 * time.Minute
)

// storedSegment is an index segment that is in the store.
type storedSegment struct {
	name index.Name
	size int64
}

// compact merges segments if there are too many. A failure costs readers time,
// and nobody anything else: it is logged.
func (r *Repository) compact(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	err := r.compactLevels(ctx, compactBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist): // somebody else is at it
		r.log.Debug("the index was compacted by somebody else", "error", err)
	case err != nil:
		r.log.Warn("the index could not be compacted, which costs time only", "error", err)
	}
}

// compactLevels merges segments of the lowest level that is crowded, and so on,
// of budget bytes in all.
func (r *Repository) compactLevels(ctx context.Context, budget int64) error {
	listed, err := r.listSegments(ctx)
	if err != nil {
		return err
	}
	// What is superseded is known as of the last refresh. What is not known does
	// no harm: it is merged once more.
	present := maps.Clone(listed)
	for _, t := range r.indexSet().Tables() {
		for _, n := range t.Supersedes() {
			delete(listed, n)
		}
	}
	for {
		level, picked, size := pick(listed, budget)
		if len(picked) < 2 {
			return nil
		}
		merged, err := r.mergeSegments(ctx, index.Above(level), picked, present)
		if err != nil {
			return err
		}
		budget -= size
		for _, n := range picked {
			delete(listed, n)
		}
		for _, s := range merged {
			listed[s.name] = store.Object{Key: s.name.Key(), Size: s.size}
		}
	}
}

// pick chooses what to merge: the smallest segments of the lowest crowded
// level, with all their parts, of so many bytes in all.
func pick(listed map[index.Name]store.Object, budget int64) (level uint8, names []index.Name, size int64) {
	type group struct {
		names []index.Name
		size  int64
	}
	groups := map[index.Name]*group{} // by the name of the first part
	count := map[uint8]int{}
	for n, o := range listed {
		first := n
		if n.Level > 0 {
			first.Part = 0
		}
		g := groups[first]
		if g == nil {
			g = &group{}
			groups[first] = g
			count[n.Level]++
		}
		g.names, g.size = append(g.names, n), g.size+o.Size
	}
	for _, level = range slices.Sorted(maps.Keys(count)) {
		if count[level] <= crowd {
			continue
		}
		var firsts []index.Name
		for n := range groups {
			if n.Level == level {
				firsts = append(firsts, n)
			}
		}
		slices.SortFunc(firsts, func(a, b index.Name) int {
			return cmp.Or(cmp.Compare(groups[a].size, groups[b].size), a.Compare(b))
		})
		names, size = nil, 0
		taken := 0
		for _, n := range firsts {
			if g := groups[n]; size+g.size <= budget {
				names, size, taken = append(names, g.names...), size+g.size, taken+1
			}
		}
		if taken > 1 {
			return level, names, size
		}
	}
	return 0, nil, 0
}

// mergeSegments stores the merger of segments, which it reads whole.
func (r *Repository) mergeSegments(ctx context.Context, level uint8, names []index.Name, present map[index.Name]store.Object) ([]storedSegment, error) {
	var runs []index.Run
	supersedes := slices.Clone(names)
	for _, n := range names {
		s, err := r.getSegment(ctx, n)
		if err != nil {
			return nil, err
		}
		runs = append(runs, s)
		// What these have superseded and is still there must not come back when
		// they are deleted.
		for _, old := range s.Supersedes() {
			if _, ok := present[old]; ok {
				supersedes = append(supersedes, old)
			}
		}
	}
	return r.putParts(ctx, newSegmentName(level, supersedes), index.Merge(ondisk.MaxSegment, supersedes, nil, runs...))
}

func newSegmentName(level uint8, merged []index.Name) index.Name {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	return index.Successor(level, random, merged)
}

// putParts stores the parts of a merger in their order: the last one says what
// the merger supersedes.
func (r *Repository) putParts(ctx context.Context, name index.Name, parts iter.Seq2[[]byte, error]) ([]storedSegment, error) {
	var stored []storedSegment
	for plain, err := range parts {
		if err != nil {
			return stored, err
		}
		key := name.Key()
		obj := r.keys.SealObject(key, plain)
		if err := r.store.Put(ctx, key, obj); err != nil {
			return stored, err
		}
		r.local.objects.Put(key, obj)
		stored = append(stored, storedSegment{name, int64(len(obj))})
		name.Part++
	}
	return stored, nil
}
