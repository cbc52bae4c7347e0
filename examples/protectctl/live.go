// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// live is a snapshot driver that takes no snapshots: what it shows is the
// volume itself, a directory or a file, as it is when it is read. It keeps
// everything of driver.Provider except that later writes do show, and says so:
// it is not PointInTime. So it must not serve an application with members,
// whose hold would then seem to cover what is read after the thaw.
type live struct{ snapshots }

func (*live) Info() driver.Info { return driver.Info{Name: "live"} }

func (*live) Check(_ context.Context, vol driver.VolumeID) error {
	info, err := os.Lstat(string(vol))
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is neither a directory nor a file: %w", vol, fs.ErrInvalid)
	}
	return err
}

func (l *live) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	if err := l.Check(ctx, vol); err != nil {
		return nil, err
	}
	return l.add(&local{path: string(vol), info: driver.SnapshotInfo{ID: id, Volume: vol, Created: time.Now(), Method: "live"}})
}

// snapshots remembers the snapshots of a driver that need not outlive the
// process. Its zero value is empty.
type snapshots struct {
	mu  sync.Mutex
	all []*local
}

// add adds a snapshot unless there is one of this volume and identifier.
func (s *snapshots) add(l *local) (driver.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.owner = s
	for _, o := range s.all {
		if o.info.ID == l.info.ID && o.info.Volume == l.info.Volume {
			return nil, fmt.Errorf("snapshot %q of %q: %w", l.info.ID, l.info.Volume, fs.ErrExist)
		}
	}
	s.all = append(s.all, l)
	return l, nil
}

// List implements driver.Provider.
func (s *snapshots) List(_ context.Context, prefix string) ([]driver.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []driver.Snapshot
	for _, l := range s.all {
		if strings.HasPrefix(l.info.ID, prefix) {
			out = append(out, l)
		}
	}
	return out, nil
}

// local is a snapshot that is at a path.
type local struct {
	owner  *snapshots
	path   string
	info   driver.SnapshotInfo
	remove func() error // of what Create made, if anything
}

func (l *local) Info() driver.SnapshotInfo { return l.info }

func (l *local) Ready(context.Context) (bool, error) { return true, nil }

func (l *local) Delete(context.Context) error {
	if l.remove != nil {
		if err := l.remove(); err != nil {
			return err
		}
	}
	l.owner.mu.Lock()
	defer l.owner.mu.Unlock()
	l.owner.all = slices.DeleteFunc(l.owner.all, func(o *local) bool { return o == l })
	return nil
}

// Dir implements driver.DirReader.
func (l *local) Dir(context.Context) (string, func(context.Context) error, error) {
	return l.path, func(context.Context) error { return nil }, nil
}

var (
	_ driver.Provider  = (*live)(nil)
	_ driver.DirReader = (*local)(nil)
)
