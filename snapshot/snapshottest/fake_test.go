// SPDX-License-Identifier: Apache-2.0

package snapshottest_test

import (
	"fmt"
	"testing"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

func TestFakeConformance(t *testing.T) {
	for name, opts := range map[string]*snapshottest.FakeOptions{
		"default": nil,
		"noGroup": {NoGroup: true},
		"noDir":   {NoDir: true},
		"torn":    {Torn: true, NoGroup: true},
	} {
		t.Run(name, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshottest.Harness { return fakeHarness(t, opts) })
		})
	}
}

func fakeHarness(t *testing.T, opts *snapshottest.FakeOptions) snapshottest.Harness {
	f := snapshottest.NewFake(t, opts)
	n := 0
	add := func(t *testing.T, as func(driver.VolumeID, string)) snapshottest.Volume {
		n++
		v := snapshottest.Volume{ID: driver.VolumeID(fmt.Sprint("volume-", n)), Dir: t.TempDir()}
		as(v.ID, v.Dir)
		return v
	}
	return snapshottest.Harness{
		Provider: f.Provider,
		Volume:   func(t *testing.T) snapshottest.Volume { return add(t, f.AddVolume) },
		Group: func(t *testing.T, n int) (vols []snapshottest.Volume) {
			for range n {
				vols = append(vols, add(t, f.AddVolume))
			}
			return vols
		},
		Apart: func(t *testing.T) []snapshottest.Volume {
			return []snapshottest.Volume{add(t, f.AddVolume), add(t, f.AddVolumeApart)}
		},
		Missing: "missing",
	}
}
