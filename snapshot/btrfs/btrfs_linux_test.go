// SPDX-License-Identifier: Apache-2.0

package btrfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/loopfstest"
)

// must is for steps that are not under test.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func dirOf(tb testing.TB, s driver.Snapshot) string {
	tb.Helper()
	path, release, err := s.(driver.DirReader).Dir(tb.Context())
	must(tb, err)
	must(tb, release(tb.Context()))
	return path
}

func TestNewElsewhere(t *testing.T) {
	var st unix.Statfs_t
	must(t, unix.Statfs("/proc", &st))
	if _, err := btrfs.New("/proc", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("New in /proc: %v", err)
	}
	if _, err := btrfs.New("relative", nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("New with a relative path: %v", err)
	}
	if _, err := btrfs.New("/does/not/exist", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("New in a missing folder: %v", err)
	}
}

// TestRefusals has volumes whose snapshot would not show what they show.
func TestRefusals(t *testing.T) {
	mount := loopfstest.Mount(t, "btrfs")
	other := newLab(t, loopfstest.Mount(t, "btrfs"))
	l := newLab(t, mount)
	outer := l.subvolume(mount + "/outer")
	l.subvolume(outer + "/a/inner")
	l.mkdir(outer + "/a/inner/below")
	l.mkdir(outer + "/ab")
	bound := l.subvolume(mount + "/bound")
	l.mkdir(bound + "/source")
	l.mkdir(bound + "/target/in")
	must(t, unix.Mount(bound+"/source", bound+"/target", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bound+"/target", 0)) })
	l.mkdir(bound + "/target/in")
	elsewhere := t.TempDir()
	must(t, unix.Mount(bound+"/source", elsewhere, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(elsewhere, 0)) })

	for name, tc := range map[string]struct {
		volume string
		want   error
	}{
		"nested":              {outer, errors.ErrUnsupported},
		"nested deeper":       {outer + "/a", errors.ErrUnsupported},
		"beside the nested":   {outer + "/ab", nil},
		"the nested itself":   {outer + "/a/inner", nil},
		"in the nested":       {outer + "/a/inner/below", nil},
		"holds the snapshots": {mount, fs.ErrInvalid},
		"in the snapshots":    {l.dir, fs.ErrInvalid},
		"other btrfs":         {other.mkdir(other.mount + "/v"), errors.ErrUnsupported},
		"other file system":   {"/proc/self", fs.ErrInvalid}, // a link
		"no btrfs":            {"/proc", errors.ErrUnsupported},
		"bind mount inside":   {bound + "/target", errors.ErrUnsupported},
		"below a bind mount":  {bound + "/target/in", errors.ErrUnsupported},
		"bind mount outside":  {elsewhere, errors.ErrUnsupported},
		"source of the mount": {bound + "/source", nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.provider()
			check := p.Check(t.Context(), driver.VolumeID(tc.volume))
			s, create := p.Create(t.Context(), driver.VolumeID(tc.volume), "refuse")
			if !errors.Is(check, tc.want) || !errors.Is(create, tc.want) {
				t.Errorf("Check: %v\nCreate: %v\nwant %v", check, create, tc.want)
			}
			if create == nil {
				must(t, s.Delete(t.Context()))
			}
			left, err := os.ReadDir(l.dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestUnflushed: the snapshot has what was written, not just what was flushed.
func TestUnflushed(t *testing.T) {
	l := newLab(t, loopfstest.Mount(t, "btrfs"))
	vol := l.subvolume(l.mount + "/v")
	p := l.provider()
	for i := range 5 {
		want := bytes.Repeat([]byte{byte('a' + i)}, 5<<20+i)
		must(t, os.WriteFile(vol+"/f", want, 0o600))
		s, err := p.Create(t.Context(), driver.VolumeID(vol), fmt.Sprint("u", i))
		must(t, err)
		must(t, os.WriteFile(vol+"/f", []byte("later"), 0o600))
		got, err := os.ReadFile(dirOf(t, s) + "/f")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("cut %d has %d bytes (%v), want %d", i, len(got), err, len(want))
		}
		if d := time.Since(s.Info().Created); d < -time.Minute || d > time.Minute {
			t.Errorf("created %v ago", d)
		}
		if err := os.WriteFile(dirOf(t, s)+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing to the snapshot: %v", err)
		}
	}
}

// glob returns the n paths that match pattern.
func glob(tb testing.TB, pattern string, n int) []string {
	tb.Helper()
	paths, err := filepath.Glob(pattern)
	must(tb, err)
	if len(paths) != n {
		tb.Fatalf("%q matches %d paths, want %d", pattern, len(paths), n)
	}
	return paths
}

// TestInterrupted deletes what a process that was killed at any step of a
// group cut leaves behind.
func TestInterrupted(t *testing.T) {
	l := newLab(t, loopfstest.Mount(t, "btrfs"))
	sub := l.subvolume(l.mount + "/s")
	vols := []driver.VolumeID{driver.VolumeID(l.mkdir(sub + "/a")), driver.VolumeID(l.mkdir(sub + "/b"))}
	cut := func() {
		_, err := l.provider().(driver.GroupCreator).CreateGroup(t.Context(), vols, "id")
		must(t, err)
	}
	group := func() string { return glob(t, l.dir+"/id/.group-*", 1)[0] }
	views := func() []string { return glob(t, l.dir+"/id/*/view", 2) }
	noCut := func() {
		loopfstest.Command(t, "btrfs", "-q", "subvolume", "delete", group()+"/cut")
	}
	for name, undo := range map[string]func(){
		"after the cut":  func() {},
		"before the cut": noCut,
		"one view":       func() { noCut(); must(t, os.Remove(views()[1])) },
		"no view": func() {
			noCut()
			for _, v := range views() {
				must(t, os.Remove(v))
			}
			must(t, os.Remove(group()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cut()
			undo()
			list, err := l.provider().List(t.Context(), "id")
			must(t, err)
			if len(list) != 2 {
				t.Fatalf("List shows %d snapshots, want 2", len(list))
			}
			for _, s := range list {
				ready, err := s.Ready(t.Context())
				if name == "after the cut" != ready || !ready && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Ready: %v, %v", ready, err)
				}
			}
			for _, s := range list {
				must(t, s.Delete(t.Context()))
			}
			left, err := os.ReadDir(l.dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestFolderInSubvolume has the folder of snapshots in the same subvolume as
// the volumes, beside them.
func TestFolderInSubvolume(t *testing.T) {
	mount := loopfstest.Mount(t, "btrfs")
	realtest.Require(t, os.Geteuid() == 0, "needs root")
	l := newLab(t, mount) // the subvolume is that of the mount itself
	vol := l.mkdir(mount + "/data")
	must(t, os.WriteFile(vol+"/f", []byte("x"), 0o600))
	for i := range 3 {
		s, err := l.provider().Create(t.Context(), driver.VolumeID(vol), fmt.Sprint("i", i))
		must(t, err)
		if b, err := os.ReadFile(dirOf(t, s) + "/f"); err != nil || string(b) != "x" {
			t.Errorf("cut %d: %q, %v", i, b, err)
		}
	}
}
