// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// maxTables bounds how many tables a look-up asks; more are merged.
const maxTables = 8

func segmentKey(session [16]byte, n int) string {
	return fmt.Sprintf("%s00-%x-%08x", ondisk.IndexPrefix, session, n)
}

// refresh makes known where chunks are, as all index segments tell it. Damage
// does not stop it: it uses the others and returns an error that matches
// ErrCorrupt.
func (r *Repository) refresh(ctx context.Context) error {
	select {
	case r.refreshing <- struct{}{}:
		defer func() { <-r.refreshing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	merged, tables := r.mu.merged, r.mu.tables
	r.mu.Unlock()
	var (
		mu       sync.Mutex
		segments [][]byte
		damage   []error
	)
	now := map[string]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for o, err := range r.store.List(ctx, ondisk.IndexPrefix) {
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if merged[o.Key] {
			continue
		}
		g.Go(func() error {
			seg, err := r.getSegment(gctx, o.Key)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case errors.Is(err, ErrCorrupt):
				damage = append(damage, err)
			case err != nil:
				return err
			default:
				segments = append(segments, seg)
				now[o.Key] = true
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(segments) > 0 {
		t, err := index.Build(segments)
		if err != nil {
			return err
		}
		if tables = append(slices.Clip(tables), t); len(tables) > maxTables {
			tables = []*index.Table{index.Merge(tables...)}
		}
	}
	r.mu.Lock()
	for key := range now {
		r.mu.merged[key] = true
	}
	r.mu.tables = tables
	r.mu.Unlock()
	return errors.Join(damage...)
}

func (r *Repository) getSegment(ctx context.Context, key string) ([]byte, error) {
	seg, err := r.getObject(ctx, key, ondisk.MaxSegment)
	if err != nil {
		return nil, err
	}
	if _, err := index.Build([][]byte{seg}); err != nil {
		return nil, corrupt(key, err)
	}
	return seg, nil
}

// find returns where a chunk is, if the index knows.
func (r *Repository) find(id ondisk.ID) (index.Location, bool) {
	r.mu.Lock()
	tables := r.mu.tables
	r.mu.Unlock()
	for _, t := range tables {
		if l, ok := t.Find(id); ok {
			return l, true
		}
	}
	return index.Location{}, false
}
