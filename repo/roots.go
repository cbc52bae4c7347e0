// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// rootSet is what is known of the attempts to commit points. An attempt is dead
// when it is closed, and by nothing else.
type rootSet struct {
	points map[attempt]*Point // the closed ones, too
	fences map[attempt]bool
	closed *ondisk.AttemptSet
}

// alive reports whether the attempt's point is live.
func (s *rootSet) alive(a attempt) bool { return s.points[a] != nil && !s.closed.Has(a) }

// live iterates over the live points.
func (s *rootSet) live() iter.Seq2[attempt, *Point] {
	return func(yield func(attempt, *Point) bool) {
		for a, p := range s.points {
			if s.alive(a) && !yield(a, p) {
				return
			}
		}
	}
}

// newest returns the live point with the highest seq among those that are
// wanted, or nil.
func (s *rootSet) newest(want func(*Point) bool) *Point {
	var best *Point
	for a, p := range s.live() {
		if want(p) && (best == nil || p.seq > best.seq || p.seq == best.seq && a.String() > best.at.String()) {
			best = p
		}
	}
	return best
}

// lookup returns the live point with this ID, or nil, and the attempt that a
// session has to make to commit it. Only the last attempt can be live, for
// another one is made when it is over. If what is closed cannot be read in full
// the point may be a forgotten one.
func (r *Repository) lookup(ctx context.Context, id string) (*Point, attempt, error) {
	at := attempt{Name: r.keys.PointName(id)}
	s, err := r.readRoots(ctx, fmt.Sprintf("%x-", at.Name))
	if s == nil {
		return nil, at, err
	}
	last, used := s.closed.Max(at.Name)
	for a := range s.points {
		last, used = max(last, a.N), true
	}
	for a := range s.fences {
		last, used = max(last, a.N), true
	}
	at.N = last
	switch {
	case s.alive(at):
		// Damage elsewhere must not keep us from reading the point.
		return s.points[at], at, r.tolerate(err)
	case err != nil:
		return nil, at, err
	case last == math.MaxUint32:
		return nil, at, fmt.Errorf("%w: no attempt is left", fs.ErrInvalid)
	case used:
		at.N++
	}
	return nil, at, nil
}

// committed is lookup for whoever does without a session because the point is
// there: so it must not be a forgotten one.
func (r *Repository) committed(ctx context.Context, id string) (*Point, attempt, error) {
	p, at, err := r.lookup(ctx, id)
	if p != nil && err == nil {
		_, err = r.readClosed(ctx)
	}
	return p, at, err
}

// fetchers bounds concurrent reads of small objects.
const fetchers = 16

// readRoots reads the commit keys of all attempts that start with prefix, and
// then what is closed. If some are damaged, it returns the others together with
// an error that matches ErrCorrupt.
func (r *Repository) readRoots(ctx context.Context, prefix string) (*rootSet, error) {
	s := &rootSet{points: map[attempt]*Point{}, fences: map[attempt]bool{}}
	var (
		mu     sync.Mutex
		damage []error
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for o, err := range r.store.List(ctx, ondisk.PointPrefix+prefix) {
		if err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		g.Go(func() error {
			a, p, err := r.rootAt(gctx, o)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, fs.ErrNotExist): // deleted since it was listed
			case errors.Is(err, ErrCorrupt):
				damage = append(damage, err)
			case err != nil:
				return err
			case p == nil:
				s.fences[a] = true
			default:
				s.points[a] = p
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if prefix == "" {
		r.mu.Lock()
		maps.DeleteFunc(r.mu.records, func(a attempt, _ *Point) bool { return s.points[a] == nil && !s.fences[a] }) // gone
		r.mu.Unlock()
	}
	var err error
	if s.closed, err = r.readClosed(ctx); err != nil && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	return s, errors.Join(append(damage, err)...)
}

// rootAt returns what is at a commit key: a point, or nil for a fence. Records
// never change, so it reads each only once, when it is known since when it is
// there.
func (r *Repository) rootAt(ctx context.Context, o store.Object) (attempt, *Point, error) {
	a, err := ondisk.ParseAttempt(strings.TrimPrefix(o.Key, ondisk.PointPrefix))
	if err != nil {
		return a, nil, corrupt(o.Key, err)
	}
	r.mu.Lock()
	p, known := r.mu.records[a]
	r.mu.Unlock()
	if known {
		return a, p, nil
	}
	if p, err = r.fetchRecord(ctx, a, o.ModTime); err != nil {
		return a, nil, err
	}
	if !o.ModTime.IsZero() {
		r.mu.Lock()
		r.mu.records[a] = p
		r.mu.Unlock()
	}
	return a, p, nil
}

// fetchPoint returns the point at a commit key, or nil if there is a fence.
func (r *Repository) fetchPoint(ctx context.Context, a attempt) (*Point, error) {
	for o, err := range r.store.List(ctx, a.Key()) {
		if err != nil {
			return nil, err
		}
		_, p, err := r.rootAt(ctx, store.Object{Key: a.Key(), ModTime: o.ModTime})
		return p, err
	}
	_, p, err := r.rootAt(ctx, store.Object{Key: a.Key()})
	return p, err
}
