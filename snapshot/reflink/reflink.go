// SPDX-License-Identifier: Apache-2.0

// Package reflink snapshots directories by cloning them file by file.
//
// A volume is a directory, named by its absolute path. Its snapshot is a copy
// below the provider's folder, <dir>/<id>/<volume>/data. On a file system
// with shared extents (btrfs, XFS, bcachefs) the files are cloned by FICLONE,
// which takes no space and, per file, almost no time; the folder has to be on
// the same file system for that, and may be inside the volume: the copy leaves
// it out. Elsewhere the data is copied, holes kept. SnapshotInfo.Method is the
// weakest way that had to be used: "FICLONE", "copy_file_range" or "copy".
//
// # Not one instant
//
// The files are cloned one after the other, so a snapshot is only what it
// says if the application does not write meanwhile: it is never
// SnapshotInfo.PointInTime. A clone needs a transaction of the file system it
// is on. Do not freeze that one with fsfreeze: the cut would wait for the
// thaw. Quiesce the application instead, or use another driver.
//
// # Databases of this process
//
// A process that closes a file loses its POSIX locks on it, those of a SQLite
// connection included. On Unix this package therefore keeps files open that
// the process itself has open, as long as it has, so that a database may be
// held still by the process that takes the snapshot.
//
// # What is cloned
//
// Regular files, directories, symbolic links (as they are), hard links within
// the volume, permission bits, modification times, on Linux user.* attributes
// and, as root, owners. Sockets, FIFOs and devices have no data and are left
// out; the snapshot's meta.json counts them. Access control lists, file
// capabilities and security labels are not kept. What is mounted inside the
// volume is not part of it: the mount point shows as an empty directory.
//
// A volume may be hostile. No link is followed out of it, nothing but regular
// files and directories is opened, a file that is replaced between the look
// and the opening is noticed, and one that grows is cut off at the size it
// had. Snapshots are in folders that only their owner may enter.
//
// # Crashes
//
// A killed process leaves a partial snapshot, which List shows and Delete
// removes. Create leaves the data in the page cache, to be quick while the
// application is frozen; Ready flushes it. If the machine restarts before
// that, the snapshot is partial. (On other systems than Linux, Create
// flushes.)
package reflink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

// Options configure a provider. Zero values select the defaults.
type Options struct {
	// Workers is how many files of one volume are cloned at the same time. The
	// default is 8.
	Workers int
	// CleanupTimeout bounds the removal of what a failed Create left. The
	// default is 5 seconds; List shows the rest.
	CleanupTimeout time.Duration
	// CopyOnly copies the data even where it could be shared, so that a
	// damaged block of the volume is not one of the snapshot too.
	CopyOnly bool
}

func (o *Options) withDefaults() Options {
	var v Options
	if o != nil {
		v = *o
	}
	if v.Workers <= 0 {
		v.Workers = 8
	}
	if v.CleanupTimeout <= 0 {
		v.CleanupTimeout = 5 * time.Second
	}
	return v
}

// New returns a provider that keeps its snapshots in dir, the absolute path of
// an existing directory that nobody but the provider writes to. Several
// processes may use the same dir.
func New(dir string, opts *Options) (driver.Provider, error) {
	store, err := snapdir.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("reflink: %w", err)
	}
	return &provider{store: store, opts: opts.withDefaults()}, nil
}

type provider struct {
	store   *snapdir.Store
	opts    Options
	sources sources
}

var _ driver.Provider = (*provider)(nil)

// Info implements driver.Provider.
func (p *provider) Info() driver.Info { return driver.Info{Name: "reflink", Inside: true} }

// Check implements driver.Provider.
func (p *provider) Check(ctx context.Context, vol driver.VolumeID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := p.store.CheckVolume(string(vol)); err != nil {
		return fmt.Errorf("reflink: %w", err)
	}
	root, err := os.Open(string(vol))
	if err != nil {
		return fmt.Errorf("reflink: %w", err)
	}
	defer root.Close()
	if _, err := root.Readdirnames(1); err != nil && !isEOF(err) {
		return fmt.Errorf("reflink: %w", err)
	}
	return nil
}

// Create implements driver.Provider.
func (p *provider) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := p.store.CheckVolume(string(vol)); err != nil {
		return nil, fmt.Errorf("reflink: %w", err)
	}
	claim, err := p.store.Claim(id, string(vol))
	if err != nil {
		return nil, fmt.Errorf("reflink: %w", err)
	}
	s := &snap{store: p.store, claim: claim}
	if err := s.create(ctx, p.opts, &p.sources); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.opts.CleanupTimeout)
		defer cancel()
		return nil, snapdir.NotTaken(errors.Join(fmt.Errorf("reflink: %w", err), s.Delete(ctx)))
	}
	return s, nil
}

// List implements driver.Provider.
func (p *provider) List(ctx context.Context, prefix string) ([]driver.Snapshot, error) {
	claims, err := p.store.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("reflink: %w", err)
	}
	snaps := make([]driver.Snapshot, 0, len(claims))
	for _, c := range claims {
		s := &snap{store: p.store, claim: c}
		// A partial one has no metadata; List shows it all the same.
		s.meta, _ = readMeta(c.Path)
		snaps = append(snaps, s)
	}
	return snaps, nil
}
