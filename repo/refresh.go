// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// maxTables bounds how many tables a look-up asks; more are merged.
const maxTables = 8

// refresh makes the chunks of all committed points known and returns the
// points by the keys of their records. Damage does not stop it: the points that
// it can use are returned together with an error that matches ErrCorrupt.
func (r *Repository) refresh(ctx context.Context) (map[string]*Point, error) {
	select {
	case r.refreshing <- struct{}{}:
		defer func() { <-r.refreshing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	points, damage := r.listPoints(ctx)
	if damage != nil && !errors.Is(damage, ErrCorrupt) {
		return nil, damage
	}
	r.mu.Lock()
	known, tables := r.mu.points, r.mu.tables
	r.mu.Unlock()
	for key := range known {
		if points[key] == nil { // a point is gone, and maybe its chunks: start anew
			known, tables = nil, nil
			break
		}
	}
	segments, serr := r.readSegments(ctx, points, known)
	if serr != nil && !errors.Is(serr, ErrCorrupt) {
		return nil, serr
	}
	if len(segments) > 0 {
		t, err := index.Build(segments)
		if err != nil {
			return nil, err
		}
		if tables = append(slices.Clip(tables), t); len(tables) > maxTables {
			tables = []*index.Table{index.Merge(tables...)}
		}
	}
	r.mu.Lock()
	r.mu.points, r.mu.tables = points, tables
	r.mu.Unlock()
	return points, errors.Join(damage, serr)
}

// readSegments reads the index segments of the points that are not known yet.
// Points with damaged segments are removed from points, so that the next
// refresh tries again.
func (r *Repository) readSegments(ctx context.Context, points, known map[string]*Point) ([][]byte, error) {
	var (
		mu     sync.Mutex
		all    [][]byte
		damage []error
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for key, p := range points {
		if known[key] != nil {
			continue
		}
		g.Go(func() error {
			segs, err := r.pointSegments(gctx, p)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, segs...)
			if errors.Is(err, ErrCorrupt) {
				damage, err = append(damage, err), nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for key, p := range points {
		if slices.ContainsFunc(damage, func(err error) bool { return concerns(err, p) }) {
			delete(points, key)
		}
	}
	return all, errors.Join(damage...)
}

// pointSegments reads the index segments that the point's session wrote.
func (r *Repository) pointSegments(ctx context.Context, p *Point) ([][]byte, error) {
	segs := make([][]byte, 0, p.segments)
	for n := range p.segments {
		seg, err := r.getSegment(ctx, segmentKey(p.session, n))
		if err != nil {
			return nil, err
		}
		segs = append(segs, seg)
	}
	return segs, nil
}

// concerns reports whether err is damage to a segment of the point's session.
func concerns(err error, p *Point) bool {
	c, ok := errors.AsType[*CorruptError](err)
	return ok && p.owns(c.Object)
}

// owns reports whether the object is an index segment of the point's session.
func (p *Point) owns(object string) bool {
	return strings.HasPrefix(object, strings.TrimSuffix(segmentKey(p.session, 0), "00000000"))
}

func (r *Repository) getSegment(ctx context.Context, key string) ([]byte, error) {
	seg, err := r.getObject(ctx, key, ondisk.MaxSegment)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt(key, err)
	}
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
