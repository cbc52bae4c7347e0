// SPDX-License-Identifier: Apache-2.0

// Package snapshottest tests snapshot drivers, and programs that use them.
//
// [Run] checks a driver against every clause of package driver:
//
//	func TestConformance(t *testing.T) {
//		snapshottest.Run(t, func(t *testing.T) snapshottest.Harness {
//			drv, err := mydriver.New(t.TempDir())
//			if err != nil {
//				t.Fatal(err)
//			}
//			return snapshottest.Harness{
//				Provider: func() driver.Provider { return drv },
//				Volume: func(t *testing.T) snapshottest.Volume {
//					dir := t.TempDir()
//					return snapshottest.Volume{ID: driver.VolumeID(dir), Dir: dir}
//				},
//				Missing: "/does/not/exist",
//			}
//		})
//	}
//
// [Fake] is a provider for tests of programs, which fails on demand at any
// call, in any of the ways in which a storage system does.
package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// Volume is a volume to test with.
type Volume struct {
	// ID is its name.
	ID driver.VolumeID
	// Dir is a directory by which the suite writes to it. Without it what
	// snapshots contain is not tested.
	Dir string
}

// Harness is what [Run] needs of the author of a driver.
type Harness struct {
	// Provider returns the provider under test. It may return a new instance
	// each time, over the same storage, as after a restart of the program.
	Provider func() driver.Provider
	// Volume returns a new, empty volume.
	Volume func(t *testing.T) Volume
	// Group returns n new, empty volumes that can be cut at one instant. Leave
	// it nil if the driver cannot.
	Group func(t *testing.T, n int) []Volume
	// Apart returns two volumes that cannot be cut at one instant, although
	// others can. Leave it nil if there are none.
	Apart func(t *testing.T) []Volume
	// Missing names a volume that does not exist.
	Missing driver.VolumeID
	// ReadyTimeout is how long a snapshot may take until it is ready. Zero is
	// one minute.
	ReadyTimeout time.Duration
}

// Run runs the suite. newHarness is called once a subtest; subtests may share
// the storage, they use identifiers of their own.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"Info", testInfo},
		{"Check", testCheck},
		{"CreateListDelete", testCreateListDelete},
		{"CreateTaken", testCreateTaken},
		{"CreateMissing", testCreateMissing},
		{"CreateCancelled", testCreateCancelled},
		{"CreateInterrupted", testCreateInterrupted},
		{"CreateRace", testCreateRace},
		{"CreateManyVolumes", testCreateManyVolumes},
		{"IDs", testIDs},
		{"ListPrefix", testListPrefix},
		{"ListCancelled", testListCancelled},
		{"DeleteTwice", testDeleteTwice},
		{"DeleteRace", testDeleteRace},
		{"Gone", testGone},
		{"Content", testContent},
		{"ContentAfterDeletion", testContentAfterDeletion},
		{"Group", testGroup},
		{"GroupMembersApart", testGroupMembersApart},
		{"GroupTaken", testGroupTaken},
		{"GroupMissing", testGroupMissing},
		{"GroupUnsupported", testGroupUnsupported},
		{"GroupDeleteRace", testGroupDeleteRace},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t)
			if h.ReadyTimeout == 0 {
				h.ReadyTimeout = time.Minute
			}
			c.test(&suite{T: t, h: h})
		})
	}
}

// suite is one subtest.
type suite struct {
	*testing.T
	h Harness
}

//nolint:gochecknoglobals // what makes identifiers unique belongs to the process
var (
	process = fmt.Sprintf("%x-%x", os.Getpid(), time.Now().UnixNano())
	counter atomic.Int64
)

// id returns an identifier that nobody has used, and removes what has it when
// the test is over.
func (s *suite) id() string {
	s.Helper()
	id := fmt.Sprintf("suite-%s-%d", process, counter.Add(1))
	s.removeAfter(id)
	return id
}

func (s *suite) removeAfter(prefix string) {
	p := s.h.Provider()
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), time.Minute)
		defer cancel()
		list, err := p.List(ctx, prefix)
		if err != nil {
			s.Errorf("cleanup: List(%q): %v", prefix, err)
		}
		for _, sn := range list {
			if err := sn.Delete(ctx); err != nil {
				s.Errorf("cleanup: Delete: %v", err)
			}
		}
	})
}

// must fails the test if err is not nil.
func (s *suite) must(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// is fails the test unless err matches target.
func (s *suite) is(what string, err, target error) {
	s.Helper()
	if !errors.Is(err, target) {
		s.Errorf("%s: got error %v, want one that matches %q", what, err, target)
	}
}

// find returns the snapshots with exactly this id, by volume, as a provider of
// its own sees them.
func (s *suite) find(id string) map[driver.VolumeID]driver.Snapshot {
	s.Helper()
	list, err := s.h.Provider().List(s.Context(), id)
	s.must("List", err)
	found := make(map[driver.VolumeID]driver.Snapshot)
	for _, sn := range list {
		if info := sn.Info(); info.ID == id {
			if found[info.Volume] != nil {
				s.Errorf("List shows %q of %q twice", id, info.Volume)
			}
			found[info.Volume] = sn
		}
	}
	return found
}

// found returns the one for vol.
func (s *suite) found(id string, vol Volume) driver.Snapshot {
	s.Helper()
	sn := s.find(id)[vol.ID]
	if sn == nil {
		s.Fatalf("List(%q) does not show the snapshot of %q", id, vol.ID)
	}
	return sn
}

// nothing fails the test if List shows anything with this id.
func (s *suite) nothing(what, id string) {
	s.Helper()
	for vol := range s.find(id) {
		s.Errorf("%s: List shows a snapshot of %q", what, vol)
	}
}

// waitReady waits until sn is ready.
func (s *suite) waitReady(sn driver.Snapshot) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), s.h.ReadyTimeout)
	defer cancel()
	for {
		ready, err := sn.Ready(ctx)
		s.must("Ready", err)
		if ready {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("the snapshot is not ready after %v", s.h.ReadyTimeout)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// create creates a snapshot and waits until it is ready.
func (s *suite) create(vol Volume, id string) driver.Snapshot {
	s.Helper()
	sn, err := s.h.Provider().Create(s.Context(), vol.ID, id)
	s.must("Create", err)
	s.waitReady(sn)
	return sn
}

// needContent skips the test if it cannot see what a snapshot shows.
func (s *suite) needContent(vol Volume) {
	s.Helper()
	if vol.Dir == "" {
		s.Skip("the harness has no directory of the volume")
	}
}

// write writes a file of the volume, if the harness can.
func (s *suite) write(vol Volume, name, data string) {
	s.Helper()
	if vol.Dir == "" {
		return
	}
	path := filepath.Join(vol.Dir, filepath.FromSlash(name))
	s.must("write", os.MkdirAll(filepath.Dir(path), 0o755))
	s.must("write", os.WriteFile(path, []byte(data), 0o644))
}

// shows fails the test unless the directory of sn has exactly these files. It
// does nothing if sn is not to be read as one.
func (s *suite) shows(vol Volume, sn driver.Snapshot, want map[string]string) {
	s.Helper()
	d, ok := sn.(driver.DirReader)
	if !ok || vol.Dir == "" {
		return
	}
	dir, release, err := d.Dir(s.Context())
	s.must("Dir", err)
	if release == nil {
		s.Fatal("Dir returned no release function")
	}
	got := make(map[string]string)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		got[filepath.ToSlash(rel)] = string(b)
		return err
	})
	s.must("read the snapshot", err)
	s.must("release", release(s.Context()))
	for name := range want {
		if g, ok := got[name]; !ok {
			s.Errorf("the snapshot of %q lacks %q", sn.Info().Volume, name)
		} else if g != want[name] {
			s.Errorf("the snapshot of %q shows %.40q in %q, want %.40q", sn.Info().Volume, g, name, want[name])
		}
		delete(got, name)
	}
	for name := range got {
		s.Errorf("the snapshot of %q shows %q, which was not there at the cut", sn.Info().Volume, name)
	}
}
