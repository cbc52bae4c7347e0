// SPDX-License-Identifier: Apache-2.0

// Package snapshot cuts the volumes of an application.
//
// A [Provider] wraps a driver: reflink and btrfs are in the folders below,
// others implement package snapshot/driver and prove it with
// snapshottest.Run. [Provider.Take] cuts all volumes of a consistency group
// and returns a [Set] of one [Snapshot] a volume:
//
//	p := snapshot.NewProvider(drv, nil)
//	if err := p.Check(ctx, vols); err != nil { … }  // ahead of the freeze
//	// freeze
//	set, err := p.Take(ctx, snapshot.Request{ID: id, Volumes: vols})
//	// thaw, then
//	defer set.Release(context.WithoutCancel(ctx))
//	if err := set.WaitReady(ctx); err != nil { … }
//	path, release, err := set.Snapshots()[0].Dir(ctx)
//
// # The cut
//
// Take belongs into the freeze window, and does nothing else in it. It cuts
// the whole set at one instant if the driver can ([Set.Atomic]), and else one
// volume beside the other, recording how far apart they may be ([Set.Skew]).
// Checks come before the window ([Provider.Check]), and waiting until the set
// can be read comes after it ([Set.WaitReady]).
//
// # Identifiers
//
// The caller chooses the identifier of a set, anew for every cut. A taken one
// is an error that matches fs.ErrExist: a set is never adopted, because nobody
// could tell which instant it shows. Take does not repeat a creation that
// failed either: whether the lost call took effect before or after the
// application thawed cannot be known. Choose a new identifier and cut again.
//
// # Processes that die
//
// The package stores nothing. Whatever was created, in part or whole, is found
// by the beginning of its identifier in any later process: [Provider.Open]
// reopens a set, [Provider.Find] and [Provider.Sweep] serve those that clean
// up. What only Take saw, [Set.Atomic] and [Set.Skew], a caller that needs it
// later has to keep.
//
// # Errors
//
// Errors match, by errors.Is, fs.ErrExist (the identifier is taken),
// fs.ErrNotExist (the volume or the snapshot does not exist, or will never be
// complete), fs.ErrPermission, errors.ErrUnsupported, [ErrNotReady], or the
// context's error. Volumes appear quoted in them.
//
// # Concurrency
//
// All types are safe for concurrent use.
package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// VolumeID names a volume to its provider: a directory, a claim, a device.
type VolumeID = driver.VolumeID

// Options configure a Provider. Zero values select the defaults.
type Options struct {
	// ReadyTimeout bounds [Set.WaitReady]. The default is 10 minutes.
	ReadyTimeout time.Duration
	// CleanupTimeout bounds the removal of what a failed [Provider.Take] had
	// created. It is short, 5 seconds by default, because the application is
	// usually frozen meanwhile; what is left over, Find finds.
	CleanupTimeout time.Duration
	// Concurrency is how many driver calls for different volumes run at the
	// same time. The default is 16: where no group cut exists, the more run at
	// once, the smaller is the skew.
	Concurrency int
	// Logger receives what an operator would act on. Nil is silent.
	Logger hclog.Logger
}

func (o *Options) withDefaults() Options {
	var v Options
	if o != nil {
		v = *o
	}
	if v.ReadyTimeout <= 0 {
		v.ReadyTimeout = 10 * time.Minute
	}
	if v.CleanupTimeout <= 0 {
		v.CleanupTimeout = 5 * time.Second
	}
	if v.Concurrency <= 0 {
		v.Concurrency = 16
	}
	if v.Logger == nil {
		v.Logger = hclog.NewNullLogger()
	}
	return v
}

// Provider takes and finds sets of snapshots through one driver.
type Provider struct {
	drv  driver.Provider
	info driver.Info
	opts Options
	log  hclog.Logger
}

// NewProvider returns a Provider that uses drv. It does no I/O.
func NewProvider(drv driver.Provider, opts *Options) *Provider {
	o := opts.withDefaults()
	return &Provider{drv: drv, info: drv.Info(), opts: o, log: o.Logger.Named("snapshot")}
}

// Name returns the driver's short name, such as "btrfs".
func (p *Provider) Name() string { return p.info.Name }

// PointInTime reports whether a snapshot shows its volume as it was at one
// instant, rather than as a copy that was made file by file. Such a snapshot
// shows the volume's own inodes and their times.
func (p *Provider) PointInTime() bool { return p.info.PointInTime }

// Inside reports whether a snapshot is a write to the volume's own file system,
// so that it waits for as long as that is frozen.
func (p *Provider) Inside() bool { return p.info.Inside }

// Groups reports whether the driver can cut several volumes at one instant, if
// they lie as it needs them to; whether it did, [Set.Atomic] says.
func (p *Provider) Groups() bool {
	_, ok := p.drv.(driver.GroupCreator)
	return ok
}

// Request says what to cut.
type Request struct {
	// ID is 1 to 200 bytes of [a-z0-9.-] and starts with a letter or digit.
	// Nothing else may ever have used it.
	ID string
	// Volumes are 1 to 1024 volumes without duplicates.
	Volumes []VolumeID
}

const (
	maxID      = 200
	maxVolumes = 1024
)

func validID(id string) error {
	if err := validPrefix(id); err != nil {
		return err
	}
	if id == "" || id[0] == '.' || id[0] == '-' {
		return fmt.Errorf("snapshot: id %q does not start with a letter or digit: %w", id, fs.ErrInvalid)
	}
	return nil
}

// validPrefix checks that s may begin an identifier.
func validPrefix(s string) error {
	if len(s) > maxID {
		return fmt.Errorf("snapshot: id %.40q… is longer than %d bytes: %w", s, maxID, fs.ErrInvalid)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return fmt.Errorf("snapshot: id %q has other characters than a-z, 0-9, dot and dash: %w", s, fs.ErrInvalid)
		}
	}
	return nil
}

func validVolumes(vols []VolumeID) error {
	if len(vols) == 0 || len(vols) > maxVolumes {
		return fmt.Errorf("snapshot: %d volumes, want 1 to %d: %w", len(vols), maxVolumes, fs.ErrInvalid)
	}
	seen := make(map[VolumeID]bool, len(vols))
	for _, v := range vols {
		if v == "" {
			return fmt.Errorf("snapshot: empty volume: %w", fs.ErrInvalid)
		}
		if seen[v] {
			return fmt.Errorf("snapshot: volume %q is given twice: %w", v, fs.ErrInvalid)
		}
		seen[v] = true
	}
	return nil
}

// Check reports why vols cannot be cut: a volume that does not exist, a file
// system of another kind, a missing permission. It changes nothing, and is
// meant to run ahead of the freeze. The errors of all volumes are joined.
func (p *Provider) Check(ctx context.Context, vols []VolumeID) error {
	if err := validVolumes(vols); err != nil {
		return err
	}
	return errors.Join(p.each(len(vols), func(i int) error {
		if err := p.drv.Check(ctx, vols[i]); err != nil {
			return fmt.Errorf("snapshot: check %q: %w", vols[i], err)
		}
		return nil
	})...)
}

// Find returns the sets whose identifier starts with prefix, whoever took
// them, ordered by identifier. Partial sets and snapshots, left by a process
// that died, are included. The empty prefix finds all that the driver may have
// made.
//
// A found set has the members that still exist, ordered by volume. Whether
// there were more, and how they were cut, cannot be known: it is not
// [Set.Atomic], and its [Set.Skew] is 0.
func (p *Provider) Find(ctx context.Context, prefix string) ([]*Set, error) {
	if err := validPrefix(prefix); err != nil {
		return nil, err
	}
	list, err := p.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	var sets []*Set
	for _, s := range list {
		if n := len(sets); n == 0 || sets[n-1].id != s.info.ID {
			sets = append(sets, &Set{p: p, id: s.info.ID})
		}
		last := sets[len(sets)-1]
		last.snaps = append(last.snaps, s)
	}
	return sets, nil
}

// list returns the snapshots whose identifier starts with prefix, ordered by
// identifier and volume.
func (p *Provider) list(ctx context.Context, prefix string) ([]*Snapshot, error) {
	var list []*Snapshot
	err := retry(ctx, func() error {
		found, err := p.drv.List(ctx, prefix)
		if err != nil {
			return fmt.Errorf("snapshot: list %q: %w", prefix, err)
		}
		list = list[:0]
		for _, d := range found {
			// What does not match is a driver's mistake, and a deletion may
			// follow: it is left alone.
			if s := newSnapshot(d); strings.HasPrefix(s.info.ID, prefix) {
				list = append(list, s)
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b *Snapshot) int {
		return cmp.Or(cmp.Compare(a.info.ID, b.info.ID), cmp.Compare(a.info.Volume, b.info.Volume))
	})
	return list, err
}

// Open returns the set that an earlier [Provider.Take], of this or another
// process, returned for req. Its members are in the order of req.Volumes; if
// there are none, the set has whatever exists, as in [Provider.Find]. If the
// set or one of its volumes does not exist the error matches fs.ErrNotExist.
// Whether the members are complete, [Set.WaitReady] tells. The set is not
// Atomic, as in Find.
func (p *Provider) Open(ctx context.Context, req Request) (*Set, error) {
	if err := validID(req.ID); err != nil {
		return nil, err
	}
	if len(req.Volumes) > 0 {
		if err := validVolumes(req.Volumes); err != nil {
			return nil, err
		}
	}
	list, err := p.list(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(s *Snapshot) bool { return s.info.ID != req.ID })
	set := &Set{p: p, id: req.ID, snaps: list}
	if len(list) == 0 {
		return nil, fmt.Errorf("snapshot: open set %q: %w", req.ID, fs.ErrNotExist)
	}
	if len(req.Volumes) == 0 {
		return set, nil
	}
	ordered := make([]*Snapshot, len(req.Volumes))
	for i, vol := range req.Volumes {
		s, ok := set.Snapshot(vol)
		if !ok {
			return nil, fmt.Errorf("snapshot: open set %q: volume %q: %w", req.ID, vol, fs.ErrNotExist)
		}
		ordered[i] = s
	}
	return &Set{p: p, id: req.ID, snaps: ordered}, nil
}

// Sweep releases every set whose identifier starts with prefix, which must not
// be empty. It goes on after an error and joins the errors. The caller has to
// know that nobody uses these sets any more.
func (p *Provider) Sweep(ctx context.Context, prefix string) error {
	if prefix == "" {
		return fmt.Errorf("snapshot: sweep without a prefix: %w", fs.ErrInvalid)
	}
	sets, err := p.Find(ctx, prefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range sets {
		p.log.Info("release a leftover set", "id", s.id, "snapshots", len(s.snaps))
		errs = append(errs, s.Release(ctx))
	}
	return errors.Join(errs...)
}
