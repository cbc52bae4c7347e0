// SPDX-License-Identifier: Apache-2.0

package reflink_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

// TestLocksOfThisProcess takes snapshots of a file on which the process holds
// a POSIX record lock, as a connection to a database does.
func TestLocksOfThisProcess(t *testing.T) {
	vol := t.TempDir()
	path := filepath.Join(vol, "db")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	db, probe := open(), open()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(db.Fd(), unix.F_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	// A lock of an open file description conflicts with record locks of the
	// same process, so that this process can look.
	locked := func() bool {
		l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		if err := unix.FcntlFlock(probe.Fd(), unix.F_OFD_GETLK, &l); err != nil {
			t.Fatal(err)
		}
		return l.Type != unix.F_UNLCK
	}
	if !locked() {
		t.Fatal("the probe does not see the lock")
	}
	p, err := reflink.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		s, err := p.Create(t.Context(), driver.VolumeID(vol), fmt.Sprint("s", i))
		if err != nil {
			t.Fatal(err)
		}
		if !locked() {
			t.Fatalf("snapshot %d has dropped the lock", i)
		}
		dir, release, err := s.(driver.DirReader).Dir(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "db")); err != nil || string(b) != "content" {
			t.Errorf("snapshot %d: %q, %v", i, b, err)
		}
		if err := release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	before := descriptors(t, path)
	_ = db.Close()
	_ = probe.Close()
	if _, err := p.Create(t.Context(), driver.VolumeID(vol), "last"); err != nil {
		t.Fatal(err)
	}
	if n := descriptors(t, path); n != 0 {
		t.Errorf("%d descriptors are left of %d, although nobody has the file open", n, before)
	}
}

// descriptors counts the descriptors that this process has of a file.
func descriptors(t *testing.T, path string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == path {
			n++
		}
	}
	return n
}
