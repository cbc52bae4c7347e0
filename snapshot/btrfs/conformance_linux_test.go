// SPDX-License-Identifier: Apache-2.0

package btrfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/loopfstest"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

// lab is a btrfs with a folder for snapshots.
type lab struct {
	t     *testing.T
	mount string
	dir   string
	n     int
}

func newLab(t *testing.T, mount string) *lab {
	l := &lab{t: t, mount: mount, dir: filepath.Join(mount, "snapshots")}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) provider() driver.Provider {
	l.t.Helper()
	p, err := btrfs.New(l.dir, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// path returns a path that is new.
func (l *lab) path() string {
	l.n++
	return filepath.Join(l.mount, "volumes", filepath.Base(filepath.Dir(l.t.TempDir())), fmt.Sprint(l.n))
}

// subvolume makes a subvolume.
func (l *lab) subvolume(path string) string {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	loopfstest.Command(l.t, "btrfs", "-q", "subvolume", "create", path)
	return path
}

func (l *lab) mkdir(path string) string {
	l.t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func TestConformance(t *testing.T) {
	mount := loopfstest.Mount(t, "btrfs")
	t.Run("subvolumes", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Harness {
			l := newLab(t, mount)
			return l.harness(func() string { return l.subvolume(l.path()) })
		})
	})
	t.Run("directories", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Harness {
			l := newLab(t, mount)
			return l.harness(func() string { return l.mkdir(l.path()) })
		})
	})
	t.Run("longNames", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Harness {
			l := newLab(t, mount)
			long := filepath.Join(strings.Repeat("n", 250), strings.Repeat("=", 90))
			return l.harness(func() string { return l.mkdir(filepath.Join(l.path(), long)) })
		})
	})
}

// harness has volumes from volume, and groups in a subvolume.
func (l *lab) harness(volume func() string) snapshottest.Harness {
	named := func(path string) snapshottest.Volume {
		return snapshottest.Volume{ID: driver.VolumeID(path), Dir: path}
	}
	return snapshottest.Harness{
		Provider: l.provider,
		Volume:   func(*testing.T) snapshottest.Volume { return named(volume()) },
		Group: func(_ *testing.T, n int) (vols []snapshottest.Volume) {
			subvolume := l.subvolume(l.path())
			for i := range n {
				vols = append(vols, named(l.mkdir(filepath.Join(subvolume, "members", fmt.Sprint(i)))))
			}
			return vols
		},
		Apart: func(*testing.T) []snapshottest.Volume {
			return []snapshottest.Volume{named(l.subvolume(l.path())), named(l.subvolume(l.path()))}
		},
		Missing: driver.VolumeID(filepath.Join(l.mount, "missing")),
	}
}
