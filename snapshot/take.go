// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// Take cuts the volumes of req and returns as soon as all cuts are made:
// writes that start afterwards are not in the set. The application may thaw
// then, although the set may not be readable yet.
//
// If a volume cannot be cut, the others of this call are deleted again, within
// Options.CleanupTimeout and even if ctx is done, and the error is returned,
// joined with those of the deletion. If a lost reply or an interruption leaves
// open whether a volume was cut, a snapshot of it under req.ID is deleted
// too, on the strength of req.ID being new. What could not be deleted, or came
// into being later still, is found by [Provider.Find].
func (p *Provider) Take(ctx context.Context, req Request) (*Set, error) {
	if err := validID(req.ID); err != nil {
		return nil, err
	}
	if err := validVolumes(req.Volumes); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("snapshot: take %q: %w", req.ID, err)
	}
	c := &cut{p: p, id: req.ID, vols: slices.Clone(req.Volumes)}
	start := time.Now()
	err := c.group(ctx)
	group := err == nil
	if errors.Is(err, errors.ErrUnsupported) {
		start = time.Now()
		err = c.single(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.undo(ctx))
	}
	set := &Set{p: p, id: c.id, snaps: c.snaps}
	set.atomic = (group || len(c.vols) == 1) && set.PointInTime()
	if !set.atomic {
		set.skew = time.Since(start)
	}
	p.log.Debug("cut", "id", c.id, "volumes", len(c.vols), "atomic", set.atomic, "skew", set.skew)
	return set, nil
}

// cut is one Take on its way.
type cut struct {
	p     *Provider
	id    string
	vols  []VolumeID
	snaps []*Snapshot // by volume, nil if it was not cut
	lost  []bool      // by volume: it may have been cut all the same
}

// group cuts all volumes at one instant, or returns errors.ErrUnsupported
// having done nothing.
func (c *cut) group(ctx context.Context) error {
	g, ok := c.p.drv.(driver.GroupCreator)
	if !ok || len(c.vols) == 1 {
		return errors.ErrUnsupported
	}
	c.snaps, c.lost = make([]*Snapshot, len(c.vols)), make([]bool, len(c.vols))
	// The driver gets a copy: the order of our own decides who is who.
	made, err := g.CreateGroup(ctx, slices.Clone(c.vols), c.id)
	if err != nil {
		for i := range c.lost {
			c.lost[i] = ambiguous(err)
		}
		return fmt.Errorf("snapshot: take group %q: %w", c.id, err)
	}
	if len(made) != len(c.vols) {
		for i := range c.lost {
			c.lost[i] = true
		}
		return fmt.Errorf("snapshot: take group %q: driver %s made %d snapshots of %d volumes", c.id, c.p.info.Name, len(made), len(c.vols))
	}
	for i, d := range made {
		err = errors.Join(err, c.accept(i, d))
	}
	return err
}

// single cuts the volumes beside each other.
func (c *cut) single(ctx context.Context) error {
	c.snaps, c.lost = make([]*Snapshot, len(c.vols)), make([]bool, len(c.vols))
	// One failure fails the set, so the others need not go on.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What the cancelled ones return says nothing: the first error counts.
	var once sync.Once
	var first error
	c.p.each(len(c.vols), func(i int) error {
		if ctx.Err() != nil {
			once.Do(func() { first = fmt.Errorf("snapshot: take %q of %q: %w", c.id, c.vols[i], ctx.Err()) })
			return nil //nolint:nilerr // first has it
		}
		d, err := c.p.drv.Create(ctx, c.vols[i], c.id)
		if err != nil {
			c.lost[i] = ambiguous(err)
			err = fmt.Errorf("snapshot: take %q of %q: %w", c.id, c.vols[i], err)
		} else {
			err = c.accept(i, d)
		}
		if err != nil {
			once.Do(func() { first = err })
			cancel()
		}
		return nil
	})
	return first
}

// accept takes what the driver returned for volume i, unless it is something
// else than was asked for.
func (c *cut) accept(i int, d driver.Snapshot) error {
	if d == nil {
		c.lost[i] = true
		return fmt.Errorf("snapshot: take %q of %q: driver %s returned neither snapshot nor error", c.id, c.vols[i], c.p.info.Name)
	}
	s := newSnapshot(d)
	c.snaps[i] = s
	if s.info.ID != c.id || s.info.Volume != c.vols[i] {
		// It is not known to be ours, so it is not deleted by this handle.
		c.snaps[i], c.lost[i] = nil, true
		return fmt.Errorf("snapshot: take %q of %q: driver %s returned %q of %q", c.id, c.vols[i], c.p.info.Name, s.info.ID, s.info.Volume)
	}
	return nil
}

// undo deletes what the failed cut has created or may have created.
func (c *cut) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.p.opts.CleanupTimeout)
	defer cancel()
	made := slices.DeleteFunc(slices.Clone(c.snaps), func(s *Snapshot) bool { return s == nil })
	var err error
	if slices.Contains(c.lost, true) {
		var found []*Snapshot
		found, err = c.p.list(ctx, c.id)
		for _, s := range found {
			i := slices.Index(c.vols, s.info.Volume)
			if s.info.ID == c.id && i >= 0 && c.lost[i] {
				made = append(made, s)
			}
		}
	}
	if len(made) > 0 {
		err = errors.Join(err, (&Set{p: c.p, id: c.id, snaps: made}).Release(ctx))
	}
	if err != nil {
		c.p.log.Warn("a failed cut left snapshots behind", "id", c.id, "error", err)
	}
	return err
}

// each calls fn for 0 to n-1, Options.Concurrency at a time, and returns the
// errors in order.
func (p *Provider) each(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	if n == 1 {
		errs[0] = fn(0)
		return errs
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, p.opts.Concurrency)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = fn(i)
		})
	}
	wg.Wait()
	return errs
}
