// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"iter"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// indexedPacks iterates over the packs that the index names, some of them
// perhaps several times.
func (r *Repository) indexedPacks() iter.Seq[*index.PackInfo] {
	return func(yield func(*index.PackInfo) bool) {
		for _, t := range r.knownTables() {
			for _, p := range t.Packs() {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// inPacks returns what the index knows of the chunks in some packs.
func (r *Repository) inPacks(want func(ondisk.PackRef) bool) map[ondisk.PackRef][]index.Location {
	found := map[ondisk.PackRef][]index.Location{}
	for _, t := range r.knownTables() {
		for i := range t.Len() {
			if at := t.At(i); want(at.Pack.Ref) {
				found[at.Pack.Ref] = append(found[at.Pack.Ref], at)
			}
		}
	}
	return found
}

// adopt makes packs known that no index segment names yet.
func (r *Repository) adopt(packs []index.Pack) error {
	if len(packs) == 0 {
		return nil
	}
	t, err := index.Build([][]byte{index.Encode(packs)})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.tables = append(r.mu.tables[:len(r.mu.tables):len(r.mu.tables)], t)
	return nil
}

// forgetIndex makes the next refresh read all segments again.
func (r *Repository) forgetIndex() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.tables, r.mu.merged = nil, map[string]bool{}
}
