// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"iter"
	"slices"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// indexedPacks returns the packs that the index names, in no particular order.
func (r *Repository) indexedPacks(ctx context.Context) ([]index.PackInfo, error) {
	return ask(ctx, r, func(s *index.Set) ([]index.PackInfo, error) {
		scan, err := s.Scan()
		if err != nil {
			return nil, err
		}
		var packs []index.PackInfo
		for p, err := range scan.Packs() {
			if err != nil {
				return nil, err
			}
			packs = append(packs, p)
		}
		return packs, nil
	})
}

// inPacks returns what the index knows of the chunks in some packs.
func (r *Repository) inPacks(ctx context.Context, want func(ondisk.PackRef) bool) (map[ondisk.PackRef][]index.Location, error) {
	packs, err := ask(ctx, r, func(s *index.Set) ([]index.Pack, error) {
		scan, err := s.Scan()
		if err != nil {
			return nil, err
		}
		return scan.InPacks(want)
	})
	found := map[ondisk.PackRef][]index.Location{}
	for i := range packs {
		for _, e := range packs[i].Entries {
			found[packs[i].Ref] = append(found[packs[i].Ref], index.Location{Pack: &packs[i].PackInfo, Entry: e})
		}
	}
	return found, err
}

// adopt makes packs known that no index segment names yet.
func (r *Repository) adopt(ctx context.Context, packs []index.Pack) error {
	for part := range bySegment(packs) {
		seg, err := index.Decode(index.Name{}, index.Encode(part))
		if err == nil {
			err = r.addSegment(ctx, seg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bySegment divides packs into as many as a segment takes.
func bySegment(packs []index.Pack) iter.Seq[[]index.Pack] {
	return func(yield func([]index.Pack) bool) {
		for len(packs) > 0 {
			take, chunks := 0, 0
			for take < len(packs) {
				chunks += len(packs[take].Entries)
				if take > 0 && index.Size(0, take+1, chunks) > ondisk.MaxSegment {
					break
				}
				take++
			}
			if !yield(packs[:take]) {
				return
			}
			packs = packs[take:]
		}
	}
}

// forgetIndex makes the next refresh read all segments again.
func (r *Repository) forgetIndex() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.index = nil
}

// inIndex reports whether what is known of the index came from this segment.
func (r *Repository) inIndex(key string) bool {
	name, ok := index.ParseKey(key)
	if !ok {
		return false
	}
	for _, t := range r.indexSet().Tables() {
		if slices.Contains(t.Covers(), name) {
			return true
		}
	}
	return false
}
