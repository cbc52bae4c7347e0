// SPDX-License-Identifier: Apache-2.0

package reflink_test

import (
	"path/filepath"
	"testing"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/reflink"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

func TestConformance(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Harness { return harness(t, t.TempDir(), t.TempDir, nil) })
}

// harness keeps snapshots in dir and has volumes from newVolume.
func harness(t *testing.T, dir string, newVolume func() string, opts *reflink.Options) snapshottest.Harness {
	return snapshottest.Harness{
		Provider: func() driver.Provider {
			p, err := reflink.New(dir, opts)
			if err != nil {
				t.Fatal(err)
			}
			return p
		},
		Volume: func(*testing.T) snapshottest.Volume {
			v := newVolume()
			return snapshottest.Volume{ID: driver.VolumeID(v), Dir: v}
		},
		Missing: driver.VolumeID(filepath.Join(dir, "..", "missing")),
	}
}
