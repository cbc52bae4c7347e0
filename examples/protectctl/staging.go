// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

// The values of --snapshot.
const (
	snapshotAuto    = "auto"
	snapshotLive    = "live"
	snapshotReflink = "reflink"
	snapshotBtrfs   = "btrfs"
)

// staging is the directory in which the volumes are cut, and its driver.
type staging struct {
	dir    string
	lock   *os.File // says that somebody lives here
	driver driver.Provider
}

// openStaging makes a fresh hidden directory for snapshots of this kind in
// parent, and removes those that killed processes left there.
func (c *cli) openStaging(ctx context.Context, kind, parent string) (*staging, error) {
	prefix := ".protectctl-" + kind + "-"
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if !strings.HasPrefix(e.Name(), prefix) || !e.IsDir() {
			continue
		}
		if err := removeLeftover(ctx, kind, dir); err != nil {
			c.log.Warn("cannot remove what an earlier backup left", "dir", dir, "error", err)
		}
	}
	for range 8 {
		s := &staging{}
		if s.dir, err = os.MkdirTemp(parent, prefix); err != nil {
			return nil, err
		}
		if s.lock, err = lockDir(s.dir); err != nil {
			continue // somebody takes the new directory for a leftover
		}
		if s.driver, err = openDriver(kind, s.dir); err != nil {
			return nil, errors.Join(err, s.close())
		}
		return s, nil
	}
	return nil, fmt.Errorf("staging in %q: %w", parent, err)
}

// openDriver returns the driver that keeps its snapshots in dir.
func openDriver(kind, dir string) (driver.Provider, error) {
	if kind == snapshotBtrfs {
		return btrfs.New(dir, nil)
	}
	d, err := reflink.New(dir, nil)
	if err != nil {
		return nil, err
	}
	return &withFiles{Provider: d, dir: dir}, nil
}

// close removes the directory. The snapshots in it have been removed by who
// took them.
func (s *staging) close() error {
	return errors.Join(os.RemoveAll(s.dir), s.lock.Close())
}

// removeLeftover removes a staging directory unless somebody lives there.
func removeLeftover(ctx context.Context, kind, dir string) error {
	lock, err := lockDir(dir)
	if errors.Is(err, errLocked) || !locksExclude {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	d, err := openDriver(kind, dir)
	if err != nil {
		return err
	}
	sets, err := snapshot.NewProvider(d, nil).Find(ctx, "")
	if err != nil {
		return err
	}
	for _, set := range sets {
		if err := set.Release(ctx); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// stagingParent returns where the staging directory for the volume at path is
// to be: beside it, if that is on the same file system, so that extents can be
// shared, and writable.
func stagingParent(path string) string {
	parent := filepath.Dir(path)
	if !sameFileSystem(parent, path) {
		return os.TempDir()
	}
	probe, err := os.MkdirTemp(parent, ".protectctl-probe-")
	if err != nil {
		return os.TempDir()
	}
	_ = os.Remove(probe)
	return parent
}
