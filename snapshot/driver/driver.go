// SPDX-License-Identifier: Apache-2.0

// Package driver is the interface that snapshot mechanisms implement. Only
// their authors need it; everybody else uses package snapshot.
//
// A driver is passive: it does not retry, log, cache or start goroutines that
// outlive a call. Errors for which errors.Is matches fs.ErrNotExist,
// fs.ErrExist, fs.ErrPermission, errors.ErrUnsupported or a context error are
// final; package snapshot may retry any other. Optional abilities are optional
// interfaces on the Provider or on the Snapshot. snapshottest.Run checks every
// clause written here.
//
// The package imports the standard library only, and always will.
package driver

import (
	"context"
	"time"
)

// VolumeID names a volume to its provider: a directory, a claim, a device. It
// is opaque to everybody else.
type VolumeID string

// Info describes a provider.
type Info struct {
	// Name is the driver's short name, such as "btrfs".
	Name string
	// PointInTime says that a snapshot shows its volume as it was at one
	// instant, with the inodes and change times of the original, by which files
	// that did not change are known again. Without it (a file-by-file copy) the volume must not change
	// while the snapshot is taken.
	PointInTime bool
	// Inside says that a snapshot is a write to the volume's own file system, as
	// those of btrfs and reflinks are: it waits for as long as that is frozen.
	Inside bool
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	// ID is the identifier that Create was given.
	ID string
	// Volume is the volume that was cut.
	Volume VolumeID
	// Created is when the snapshot was cut, by the storage's clock.
	Created time.Time
	// Method tells people how it was made, such as "FICLONE" or "copy".
	Method string
	// PointInTime as in Info, for this very snapshot.
	PointInTime bool
}

// Provider takes and finds snapshots. It is safe for concurrent use.
type Provider interface {
	// Info returns the constant properties of the provider.
	Info() Info

	// Check reports, without changing anything, why a snapshot of vol could
	// not be taken: it does not exist, the file system is of another kind, a
	// permission is missing. It runs ahead of the freeze.
	Check(ctx context.Context, vol VolumeID) error

	// Create cuts vol and returns as soon as the cut is made: writes that
	// start afterwards are not in the snapshot. It need not be readable yet.
	//
	// id is guaranteed to be 1 to 200 bytes of [a-z0-9.-], to start with a
	// letter or digit, and to be chosen anew for every cut. The pair of vol
	// and id is unique: Create must return an error that matches fs.ErrExist
	// if it is taken, whoever took it, and must then leave what has it alone.
	// It must return an error that matches fs.ErrNotExist if vol does not
	// exist, and the context's error, soon, once ctx is done. After any error
	// nothing of the snapshot may remain that List does not show. Create is
	// never repeated with the same vol and id.
	Create(ctx context.Context, vol VolumeID, id string) (Snapshot, error)

	// List returns the snapshots whose ID starts with prefix, whoever made
	// them, partial ones included, in any order. The empty prefix lists all
	// that this provider may have made.
	List(ctx context.Context, prefix string) ([]Snapshot, error)
}

// GroupCreator is implemented by providers that can cut several volumes at one
// instant.
type GroupCreator interface {
	// CreateGroup is Create for all vols (two or more, no duplicates) at one
	// instant, in the order of vols. It must return an error that matches
	// errors.ErrUnsupported, having created nothing, if this set of volumes
	// cannot be cut at one instant. After any other error nothing may remain
	// that List does not show.
	CreateGroup(ctx context.Context, vols []VolumeID, id string) ([]Snapshot, error)
}

// Snapshot is one volume at the cut. It is safe for concurrent use.
type Snapshot interface {
	// Info returns what is known of the snapshot. A partial snapshot, found by
	// List, has at least ID and Volume.
	Info() SnapshotInfo

	// Ready reports whether the snapshot can be read, and is safe against a
	// restart of the machine that holds it. It is where a driver does what has
	// no place in the freeze window, such as flushing a copy to disk. It must
	// return an error that matches fs.ErrNotExist if the snapshot can never
	// become ready: it is gone, or its creation was interrupted.
	Ready(ctx context.Context) (bool, error)

	// Delete removes the snapshot and everything belonging to it, and nothing
	// of other snapshots, members of the same group included. Deleting what is
	// gone is not an error. After an error List shows the snapshot until
	// nothing of it remains.
	Delete(ctx context.Context) error
}

// DirReader is implemented by snapshots that can be read as a directory tree.
type DirReader interface {
	// Dir returns the path of a directory that shows the volume's root as it
	// was at the cut, and must not be written to. release ends the use of the
	// path; it is never nil if err is nil, and is called exactly once. Dir must
	// return an error that matches fs.ErrNotExist if the snapshot is gone or
	// partial.
	Dir(ctx context.Context) (path string, release func(context.Context) error, err error)
}
