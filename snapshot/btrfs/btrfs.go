// SPDX-License-Identifier: Apache-2.0

// Package btrfs snapshots btrfs subvolumes, at one instant and in no space. It
// talks to the kernel (Linux 4.18 or later); no program is needed.
//
// A volume is named by its absolute path. It is a subvolume, or a plain
// directory in one: then the whole subvolume is snapshotted, and the snapshot
// shows the directory in it. All volumes that are in one subvolume, as
// directories or as the subvolume itself, are cut at one instant. Volumes in
// several subvolumes cannot be: the kernel snapshots one at a time.
//
// The snapshot contains what was written before the cut, flushed or not, and
// is on disk when Create returns. It is kept read-only below the provider's
// folder, which must be on the same file system but not in a volume. It needs
// the space of what changes in the volume afterwards.
//
// # Limits
//
// A subvolume nested in a volume would be an empty directory in the snapshot,
// so such a volume is refused. A file system mounted in a volume is not part
// of it. A volume that is itself a bind mount of a directory out of its
// subvolume's sight is refused.
//
// A snapshot is a transaction of the file system. Do not freeze the same file
// system with fsfreeze: the cut would wait for the thaw. It is not needed
// either, the cut is crash-consistent by itself.
//
// # Privileges
//
// Creating a snapshot needs the ownership of the subvolume, or root; deleting
// it needs root (CAP_SYS_ADMIN), or the mount option user_subvol_rm_allowed.
// Snapshots are in folders that only their owner may enter.
package btrfs

import "time"

// Options configure a provider. Zero values select the defaults.
type Options struct {
	// CleanupTimeout bounds the removal of what a failed Create left. The
	// default is 5 seconds; List shows the rest.
	CleanupTimeout time.Duration
}

func (o *Options) withDefaults() Options {
	var v Options
	if o != nil {
		v = *o
	}
	if v.CleanupTimeout <= 0 {
		v.CleanupTimeout = 5 * time.Second
	}
	return v
}
