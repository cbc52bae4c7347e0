// SPDX-License-Identifier: Apache-2.0

package btrfs_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/loopfstest"
)

// TestWriteOrder has a writer write each number to a, flush it, and only then
// to b. A set that does not show the same number in both, or in a the next, was
// not cut at one instant.
//
// One cut of both never shows that. Cuts one after the other, with the pause
// between them that a slow storage system makes, do; which also proves that
// the test would notice.
func TestWriteOrder(t *testing.T) {
	l := newLab(t, loopfstest.Mount(t, "btrfs"))
	one := l.subvolume(l.mount + "/one")
	for name, tc := range map[string]struct {
		a, b string
		cuts int
		one  bool
	}{
		"group":      {l.mkdir(one + "/a"), l.mkdir(one + "/b"), 40, true},
		"sequential": {l.subvolume(l.mount + "/a"), l.subvolume(l.mount + "/b"), 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := snapshot.NewProvider(l.provider(), nil)
			if !tc.one {
				p = snapshot.NewProvider(slow{Provider: l.provider(), wait: 30 * time.Millisecond}, &snapshot.Options{Concurrency: 1})
			}
			written, stop := startWriter(t, tc.a, tc.b)
			violations := 0
			for i := range tc.cuts {
				for n := written(); written() == n; { // or the cut proves nothing
					time.Sleep(100 * time.Microsecond)
				}
				set, err := p.Take(t.Context(), snapshot.Request{
					ID: fmt.Sprintf("%s-%d", name, i), Volumes: []snapshot.VolumeID{snapshot.VolumeID(tc.a), snapshot.VolumeID(tc.b)},
				})
				must(t, err)
				must(t, set.WaitReady(t.Context()))
				if set.Atomic() != tc.one || !set.PointInTime() || (set.Skew() == 0) != tc.one {
					t.Errorf("atomic %v, point-in-time %v, skew %v", set.Atomic(), set.PointInTime(), set.Skew())
				}
				a, b := number(t, set.Snapshots()[0]), number(t, set.Snapshots()[1])
				if a != b && a != b+1 {
					violations++
				}
				must(t, set.Release(t.Context()))
			}
			stop()
			t.Logf("%d violations in %d cuts, %d numbers written", violations, tc.cuts, written())
			if (violations == 0) != tc.one {
				t.Errorf("%d violations", violations)
			}
		})
	}
}

// startWriter starts the writer. The returned functions say how much it wrote,
// and end it. If it fails it counts on, and the test has failed.
func startWriter(t *testing.T, dirs ...string) (written func() int64, stop func()) {
	t.Helper()
	var files []*os.File
	for _, d := range dirs {
		f, err := os.Create(d + "/n")
		must(t, err)
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	var done sync.WaitGroup
	step := func(n int64) error {
		for _, f := range files {
			if _, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(n)), 0); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	}
	must(t, step(0))
	done.Go(func() {
		for ; ctx.Err() == nil; n.Add(1) {
			if err := step(n.Load() + 1); err != nil {
				t.Error(err)
			}
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return n.Load, stop
}

func number(t *testing.T, s *snapshot.Snapshot) uint64 {
	t.Helper()
	path, release, err := s.Dir(t.Context())
	must(t, err)
	b, err := os.ReadFile(path + "/n")
	must(t, err)
	must(t, release(t.Context()))
	return binary.BigEndian.Uint64(b)
}

// slow is a provider without groups that takes its time after each cut.
type slow struct {
	driver.Provider
	wait time.Duration
}

func (s slow) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	sn, err := s.Provider.Create(ctx, vol, id)
	t := time.NewTimer(s.wait)
	defer t.Stop()
	<-t.C
	return sn, err
}
