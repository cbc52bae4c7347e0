// SPDX-License-Identifier: Apache-2.0

package btrfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

// New returns a provider that keeps its snapshots in dir, the absolute path of
// an existing directory on btrfs that nobody but the provider writes to. The
// error matches errors.ErrUnsupported if dir is on another file system or the
// operating system is not Linux. Several processes may use the same dir.
func New(dir string, opts *Options) (driver.Provider, error) {
	store, err := snapdir.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	defer f.Close()
	ok, err := isBtrfs(f)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("btrfs: %q is on another file system: %w", dir, errors.ErrUnsupported)
	}
	return &provider{store: store, opts: opts.withDefaults()}, nil
}

type provider struct {
	store *snapdir.Store
	opts  Options
}

var (
	_ driver.Provider     = (*provider)(nil)
	_ driver.GroupCreator = (*provider)(nil)
)

// Info implements driver.Provider.
func (p *provider) Info() driver.Info {
	return driver.Info{Name: "btrfs", PointInTime: true, Inside: true}
}

// Check implements driver.Provider.
func (p *provider) Check(ctx context.Context, vol driver.VolumeID) error {
	s, err := resolve(ctx, p.store, string(vol))
	if err != nil {
		return fmt.Errorf("btrfs: %w", err)
	}
	s.close()
	return nil
}

// Create implements driver.Provider.
func (p *provider) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	s, err := resolve(ctx, p.store, string(vol))
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	defer s.close()
	snaps, err := p.cut(ctx, []*source{s}, id)
	if err != nil {
		return nil, err
	}
	return snaps[0], nil
}

// CreateGroup implements driver.GroupCreator.
func (p *provider) CreateGroup(ctx context.Context, vols []driver.VolumeID, id string) ([]driver.Snapshot, error) {
	var sources []*source
	for _, vol := range vols {
		s, err := resolve(ctx, p.store, string(vol))
		if err != nil {
			return nil, fmt.Errorf("btrfs: %q: %w", vol, err)
		}
		defer s.close()
		if len(sources) > 0 && sources[0].id != s.id {
			return nil, fmt.Errorf("btrfs: %q and %q are in different subvolumes: %w", vols[0], vol, errors.ErrUnsupported)
		}
		sources = append(sources, s)
	}
	return p.cut(ctx, sources, id)
}

// cut makes one snapshot of the subvolume that all sources are in.
//
// Each source gets a claim with a link, "view", to its directory in the
// snapshot. The snapshot is at "cut" in the claim if there is one source, and
// else in a folder beside the claims. All of that is there before the cut, so
// that the one transaction of the cut makes everything durable at once, and a
// crash before it leaves claims that List shows and Delete removes.
func (p *provider) cut(ctx context.Context, sources []*source, id string) (_ []driver.Snapshot, err error) {
	var made []*snap
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.opts.CleanupTimeout)
		defer cancel()
		for _, s := range made {
			err = errors.Join(err, snapdir.NotTaken(s.Delete(ctx)))
		}
	}()
	for _, src := range sources {
		claim, err := p.store.Claim(id, src.volume)
		if err != nil {
			return nil, fmt.Errorf("btrfs: %w", err)
		}
		made = append(made, &snap{store: p.store, claim: claim})
	}
	home := made[0].claim.Path
	if len(sources) > 1 {
		home = filepath.Join(p.store.ID(id), groupName(sources))
		if err := os.Mkdir(home, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, snapdir.NotTaken(fmt.Errorf("btrfs: %w", err))
		}
	}
	for i, src := range sources {
		if err := made[i].link(filepath.Join(home, cutName, src.rel)); err != nil {
			return nil, snapdir.NotTaken(fmt.Errorf("btrfs: %w", err))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.snapshot(sources[0].subvol, home); err != nil {
		return nil, snapdir.NotTaken(fmt.Errorf("btrfs: snapshot: %w", err))
	}
	snaps := make([]driver.Snapshot, len(made))
	for i, s := range made {
		if err := s.examine(sources[i].inode); err != nil {
			return nil, fmt.Errorf("btrfs: %q: %w", sources[i].volume, err)
		}
		snaps[i] = s
	}
	return snaps, nil
}

// snapshot makes the snapshot of subvol in the folder home.
func (p *provider) snapshot(subvol *os.File, home string) error {
	d, err := os.Open(home)
	if err != nil {
		return err
	}
	defer d.Close()
	return snapshot(subvol, d, cutName)
}

// groupName returns the name of the folder for the snapshot of these sources.
// The claims, which a group has made before it comes here, are different for
// all groups of one id, so one of them makes the name unique.
func groupName(sources []*source) string {
	sum := sha256.Sum256([]byte(sources[0].volume))
	return fmt.Sprintf("%s%x", groupPrefix, sum[:8])
}

// List implements driver.Provider.
func (p *provider) List(ctx context.Context, prefix string) ([]driver.Snapshot, error) {
	claims, err := p.store.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	snaps := make([]driver.Snapshot, 0, len(claims))
	for _, c := range claims {
		s := &snap{store: p.store, claim: c}
		// What is partial has nothing to tell; List shows it all the same.
		s.created, _ = s.when()
		snaps = append(snaps, s)
	}
	return snaps, nil
}

const (
	cutName     = "cut"
	viewName    = "view"
	groupPrefix = ".group-"
)
