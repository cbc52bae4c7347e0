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

// Set is the snapshots of one cut.
type Set struct {
	p      *Provider
	id     string
	snaps  []*Snapshot
	atomic bool
	skew   time.Duration
}

// ID returns the identifier of the set.
func (s *Set) ID() string { return s.id }

// Atomic reports whether all volumes were cut at one and the same instant: by
// a group cut, or because it is one volume with a point-in-time snapshot. Only
// [Provider.Take] knows; it is false for a set that was found or opened.
func (s *Set) Atomic() bool { return s.atomic }

// PointInTime reports whether each member shows its volume as it was at one
// instant, which need not be the same for all.
func (s *Set) PointInTime() bool {
	return !slices.ContainsFunc(s.snaps, func(m *Snapshot) bool { return !m.info.PointInTime })
}

// Skew bounds how far apart the instants are that the members show: the time
// from before the first creation to after the last. It is 0 for an atomic set,
// and, not being known, for one that was found or opened.
func (s *Set) Skew() time.Duration { return s.skew }

// Snapshots returns the members in the order of Request.Volumes, or by volume
// in a set from [Provider.Find]. The slice is the caller's.
func (s *Set) Snapshots() []*Snapshot { return slices.Clone(s.snaps) }

// Snapshot returns the member for vol.
func (s *Set) Snapshot(vol VolumeID) (*Snapshot, bool) {
	i := slices.IndexFunc(s.snaps, func(m *Snapshot) bool { return m.info.Volume == vol })
	if i < 0 {
		return nil, false
	}
	return s.snaps[i], true
}

// Ready reports whether all members can be read and would survive a restart of
// the machine that holds them. An error that matches fs.ErrNotExist means that
// a member never will: it is gone or partial. Other errors may pass.
func (s *Set) Ready(ctx context.Context) (bool, error) {
	ready := make([]bool, len(s.snaps))
	err := errors.Join(s.p.each(len(s.snaps), func(i int) (err error) {
		m := s.snaps[i]
		if ready[i], err = m.drv.Ready(ctx); err != nil {
			return fmt.Errorf("snapshot: %q of %q: %w", s.id, m.info.Volume, err)
		}
		return nil
	})...)
	if err != nil {
		return false, err
	}
	return !slices.Contains(ready, false), nil
}

// WaitReady waits until [Set.Ready]. It gives up with [ErrNotReady] after
// Options.ReadyTimeout, and at once if a member can never become ready.
func (s *Set) WaitReady(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, s.p.opts.ReadyTimeout)
	defer cancel()
	var last error
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		ready, err := s.Ready(ctx)
		switch {
		case ready:
			return nil
		case err == nil:
			last = nil
		case ctx.Err() == nil && final(err):
			return err
		case ctx.Err() == nil:
			last = err
		}
		if sleep(ctx, wait) == nil {
			continue
		}
		if outer.Err() != nil {
			return errors.Join(fmt.Errorf("snapshot: wait for %q: %w", s.id, outer.Err()), last)
		}
		return errors.Join(fmt.Errorf("%w: %q after %v", ErrNotReady, s.id, s.p.opts.ReadyTimeout), last)
	}
}

// Release deletes all members. It goes on if one fails and joins the errors;
// calling it again is safe and tries the rest. A member that is gone is not an
// error.
func (s *Set) Release(ctx context.Context) error {
	return errors.Join(s.p.each(len(s.snaps), func(i int) error {
		m := s.snaps[i]
		err := retry(ctx, func() error { return m.drv.Delete(ctx) })
		if err != nil {
			return fmt.Errorf("snapshot: delete %q of %q: %w", s.id, m.info.Volume, err)
		}
		return nil
	})...)
}

// Snapshot is one volume at the cut.
type Snapshot struct {
	drv  driver.Snapshot
	info driver.SnapshotInfo
}

func newSnapshot(d driver.Snapshot) *Snapshot {
	return &Snapshot{drv: d, info: d.Info()}
}

// Info returns what is known of the snapshot.
func (s *Snapshot) Info() driver.SnapshotInfo { return s.info }

// Dir returns the path of a directory that shows the volume's root as it was
// at the cut, and must not be written to. release ends the use of the path;
// calling it again does nothing. The error matches errors.ErrUnsupported if
// the driver has no directories to show, and fs.ErrNotExist if the snapshot is
// gone or partial.
func (s *Snapshot) Dir(ctx context.Context) (path string, release func(context.Context) error, err error) {
	d, ok := s.drv.(driver.DirReader)
	if !ok {
		return "", nil, fmt.Errorf("snapshot: read %q of %q as a directory: %w", s.info.ID, s.info.Volume, errors.ErrUnsupported)
	}
	path, end, err := d.Dir(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("snapshot: read %q of %q: %w", s.info.ID, s.info.Volume, err)
	}
	var once sync.Once
	return path, func(ctx context.Context) (err error) {
		once.Do(func() { err = end(ctx) })
		return err
	}, nil
}

const (
	firstWait = 20 * time.Millisecond
	lastWait  = 5 * time.Second
	// attempts bounds how often a call that may be repeated is made.
	attempts = 4
)

// sleep waits for d, or returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retry repeats fn, which must be idempotent, while its error may pass.
func retry(ctx context.Context, fn func() error) error {
	for n := 1; ; n++ {
		err := fn()
		if err == nil || final(err) || n == attempts || ctx.Err() != nil {
			return err
		}
		if sleep(ctx, firstWait<<(2*n)) != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}
