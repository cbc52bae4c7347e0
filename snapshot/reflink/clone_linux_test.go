// SPDX-License-Identifier: Apache-2.0

package reflink_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/loopfstest"
	"github.com/stillpoint-go/protect/snapshot/reflink"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

// must is for steps that are not under test.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func write(tb testing.TB, path, data string) {
	tb.Helper()
	must(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	must(tb, os.WriteFile(path, []byte(data), 0o644))
}

// take snapshots vol and returns the snapshot and its directory.
func take(tb testing.TB, dir, vol string, opts *reflink.Options) (driver.Snapshot, string) {
	tb.Helper()
	p, err := reflink.New(dir, opts)
	must(tb, err)
	must(tb, p.Check(tb.Context(), driver.VolumeID(vol)))
	s, err := p.Create(tb.Context(), driver.VolumeID(vol), fmt.Sprintf("t%d", time.Now().UnixNano()))
	must(tb, err)
	return s, dirOf(tb, s)
}

func dirOf(tb testing.TB, s driver.Snapshot) string {
	tb.Helper()
	path, release, err := s.(driver.DirReader).Dir(tb.Context())
	must(tb, err)
	must(tb, release(tb.Context()))
	return path
}

// entry is what a snapshot has to keep of a file.
type entry struct {
	Mode     fs.FileMode
	ModTime  int64
	UID, GID uint32
	Links    uint64
	Data     string
	Xattr    string
}

// scan returns all entries below dir.
func scan(tb testing.TB, dir string) map[string]entry {
	tb.Helper()
	got := make(map[string]entry)
	must(tb, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		e := entry{Mode: fi.Mode(), ModTime: fi.ModTime().UnixNano(), UID: st.Uid, GID: st.Gid}
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Data, e.Links = string(b), uint64(st.Nlink) //nolint:unconvert // types differ between systems
		case fi.Mode()&fs.ModeSymlink != 0:
			if e.Data, err = os.Readlink(path); err != nil {
				return err
			}
		}
		buf := make([]byte, 100000)
		if n, err := unix.Lgetxattr(path, "user.test", buf); err == nil {
			e.Xattr = string(buf[:n])
		}
		rel, err := filepath.Rel(dir, path)
		got[rel] = e
		return err
	}))
	return got
}

// fill makes a volume of everything that there is.
func fill(tb testing.TB, vol string) {
	tb.Helper()
	write(tb, vol+"/plain", "hello")
	write(tb, vol+"/empty", "")
	write(tb, vol+"/big", strings.Repeat("0123456789abcdef", 200_000))
	write(tb, vol+"/d/e/f", "deep")
	must(tb, os.Mkdir(vol+"/emptydir", 0o700))
	must(tb, os.Link(vol+"/plain", vol+"/d/hard"))
	must(tb, os.Link(vol+"/plain", vol+"/d/e/hard"))
	for i, target := range []string{"plain", "/etc/passwd", "../../..", "missing", "d"} {
		must(tb, os.Symlink(target, fmt.Sprintf("%s/link%d", vol, i)))
	}
	write(tb, vol+"/new\nline \xff", "odd name")
	must(tb, unix.Setxattr(vol+"/plain", "user.test", []byte("value"), 0))
	must(tb, unix.Setxattr(vol+"/d", "user.test", bytes.Repeat([]byte{0, 1}, 300), 0))
	write(tb, vol+"/readonly/x", "x")
	must(tb, unix.Setxattr(vol+"/readonly/x", "user.test", nil, 0))
	if os.Geteuid() == 0 {
		must(tb, os.Lchown(vol+"/link0", 12, 34))
		must(tb, os.Chown(vol+"/d/e/f", 56, 78))
		must(tb, os.Chown(vol+"/d", 9, 9))
	}
	must(tb, os.Chmod(vol+"/d/e/f", fs.ModeSetuid|0o711))
	must(tb, os.Chmod(vol+"/d", fs.ModeSticky|fs.ModeSetgid|0o751))
	must(tb, os.Chmod(vol+"/readonly/x", 0o400))
	must(tb, os.Chmod(vol+"/readonly", 0o500))
	tb.Cleanup(func() { must(tb, os.Chmod(vol+"/readonly", 0o700)) })
	when := time.Unix(1234567890, 123456789)
	for _, name := range []string{"plain", "d/e", "d", "."} {
		must(tb, os.Chtimes(filepath.Join(vol, name), when, when))
	}
	ts := unix.Timespec{Sec: 99, Nsec: 7}
	must(tb, unix.UtimesNanoAt(unix.AT_FDCWD, vol+"/link1", []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

func TestEverythingIsKept(t *testing.T) {
	base := t.TempDir()
	vol, dir := base+"/volume", base+"/snapshots"
	must(t, os.Mkdir(dir, 0o700))
	fill(t, vol)
	// What has no data, and is left out.
	must(t, unix.Mkfifo(vol+"/d/fifo", 0o600))
	l, err := net.Listen("unix", vol+"/socket")
	must(t, err)
	defer l.Close()
	when := time.Unix(1234567890, 123456789)
	must(t, os.Chtimes(vol+"/d", when, when))
	want := scan(t, vol)
	delete(want, "d/fifo")
	delete(want, "socket")

	s, path := take(t, dir, vol, nil)
	if diff := cmp.Diff(want, scan(t, path)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	if s.Info().PointInTime {
		t.Error("a copy claims to be point-in-time")
	}
	var meta struct{ Skipped, Files int64 }
	b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "meta.json"))
	must(t, err)
	must(t, json.Unmarshal(b, &meta))
	if meta.Skipped != 2 || meta.Files != 6 {
		t.Errorf("metadata counts %+v, want 2 skipped and 6 files", meta)
	}
	fi, err := os.Stat(filepath.Dir(path))
	must(t, err)
	if fi.Mode().Perm() != 0o700 {
		t.Errorf("others may enter the snapshot: %v", fi.Mode())
	}
	must(t, s.Delete(t.Context()))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left after Delete: %v, %v", left, err)
	}
}

// TestUnprivileged runs the test above as nobody.
func TestUnprivileged(t *testing.T) {
	realtest.Require(t, os.Geteuid() == 0, "changing the user needs root")
	runAs(t, 65534, "TestEverythingIsKept")
}

// TestMethods checks which way is taken on which file system.
func TestMethods(t *testing.T) {
	t.Run("btrfs", func(t *testing.T) {
		mount := loopfstest.Mount(t, "btrfs")
		testMethod(t, mount, mount, nil, "FICLONE")
		testMethod(t, mount, mount, &reflink.Options{CopyOnly: true}, "copy")
		testMethod(t, mount, t.TempDir(), nil, "copy")
		t.Run("suite", func(t *testing.T) { runSuite(t, mount, mount) })
		t.Run("nocow", func(t *testing.T) {
			vol := mount + "/nocow"
			must(t, os.Mkdir(vol, 0o755))
			loopfstest.Command(t, "chattr", "+C", vol)
			testMethod(t, vol, mount, nil, "FICLONE")
		})
	})
	t.Run("xfs", func(t *testing.T) {
		mount := loopfstest.Mount(t, "xfs")
		testMethod(t, mount, mount, nil, "FICLONE")
		t.Run("suite", func(t *testing.T) { runSuite(t, mount, mount) })
	})
	t.Run("ext4", func(t *testing.T) {
		mount := loopfstest.Mount(t, "ext4")
		testMethod(t, mount, mount, nil, "copy_file_range")
	})
	t.Run("tmp", func(t *testing.T) {
		s, _ := take(t, t.TempDir(), filled(t, t.TempDir()), nil)
		t.Logf("the temporary folder's file system does %s", s.Info().Method)
	})
}

func filled(t *testing.T, base string) string {
	vol, err := os.MkdirTemp(base, "volume") //nolint:usetesting // it has to be on that file system
	must(t, err)
	fill(t, vol)
	return vol
}

func runSuite(t *testing.T, volumes, snapshots string) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Harness {
		dir, err := os.MkdirTemp(snapshots, "snapshots") //nolint:usetesting // it has to be on that file system
		must(t, err)
		return harness(t, dir, func() string {
			vol, err := os.MkdirTemp(volumes, "volume") //nolint:usetesting // it has to be on that file system
			must(t, err)
			return vol
		}, nil)
	})
}

// testMethod snapshots a volume in one folder to another, and expects this
// method and everything else to be as ever.
func testMethod(t *testing.T, volumes, snapshots string, opts *reflink.Options, want string) {
	t.Helper()
	vol := filled(t, volumes)
	sparse(t, vol+"/sparse")
	dir, err := os.MkdirTemp(snapshots, "snapshots") //nolint:usetesting // it has to be on that file system
	must(t, err)
	s, path := take(t, dir, vol, opts)
	if got := s.Info().Method; got != want {
		t.Errorf("method %q, want %q", got, want)
	}
	if diff := cmp.Diff(scan(t, vol), scan(t, path)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	if from, to := blocks(t, vol+"/sparse"), blocks(t, path+"/sparse"); to > from+64 {
		t.Errorf("the sparse file takes %d blocks, its snapshot %d", from, to)
	}
	ready, err := s.Ready(t.Context())
	if !ready || err != nil {
		t.Errorf("Ready: %v, %v", ready, err)
	}
}

// sparse writes a file of some data between holes, one of them at its end.
func sparse(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.Create(path)
	must(tb, err)
	for _, off := range []int64{0, 3 << 20, 9<<20 + 12345} {
		_, err := f.WriteAt(bytes.Repeat([]byte("data"), 5000), off)
		must(tb, err)
	}
	must(tb, f.Truncate(20<<20+1))
	must(tb, f.Close())
}

func blocks(tb testing.TB, path string) int64 {
	tb.Helper()
	must(tb, os.WriteFile(path+".sync", nil, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(tb, err)
	must(tb, f.Sync())
	must(tb, f.Close())
	must(tb, os.Remove(path+".sync"))
	var st unix.Stat_t
	must(tb, unix.Stat(path, &st))
	return st.Blocks
}

// TestFolderInVolume has the folder of snapshots in the volume: it stays out.
func TestFolderInVolume(t *testing.T) {
	vol := t.TempDir()
	dir := vol + "/x/.snapshots"
	must(t, os.MkdirAll(dir, 0o700))
	write(t, vol+"/a", "a")
	for range 3 {
		_, path := take(t, dir, vol, nil)
		got := scan(t, path)
		if _, ok := got["x/.snapshots"]; ok || len(got) != 3 { // ".", "a", "x"
			t.Errorf("the snapshot shows %v", got)
		}
	}
}

// TestMountInVolume: what is mounted in the volume stays out.
func TestMountInVolume(t *testing.T) {
	vol := t.TempDir()
	write(t, vol+"/a", "a")
	must(t, os.Mkdir(vol+"/mnt", 0o755))
	realtest.Require(t, os.Geteuid() == 0, "mounting needs root")
	err := unix.Mount("none", vol+"/mnt", "tmpfs", 0, "")
	realtest.Require(t, err == nil, "cannot mount a tmpfs")
	t.Cleanup(func() { must(t, unix.Unmount(vol+"/mnt", 0)) })
	write(t, vol+"/mnt/secret", "x")
	_, path := take(t, t.TempDir(), vol, nil)
	entries, err := os.ReadDir(path + "/mnt")
	if err != nil || len(entries) != 0 {
		t.Errorf("the mount point shows %v, %v", entries, err)
	}
}

// TestRestart: data that was not flushed before the machine restarted is not
// taken for a snapshot; what was flushed is.
func TestRestart(t *testing.T) {
	vol, dir := t.TempDir(), t.TempDir()
	write(t, vol+"/a", "a")
	for _, flushed := range []bool{false, true} {
		s, path := take(t, dir, vol, nil)
		if flushed {
			ready, err := s.Ready(t.Context())
			must(t, err)
			if !ready {
				t.Fatal("not ready")
			}
		}
		// As the next run of the machine finds it.
		meta := filepath.Join(filepath.Dir(path), "meta.json")
		b, err := os.ReadFile(meta)
		must(t, err)
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		must(t, err)
		b = bytes.ReplaceAll(b, bytes.TrimSpace(boot), []byte("earlier"))
		must(t, os.WriteFile(meta, b, 0o600))
		p, err := reflink.New(dir, nil)
		must(t, err)
		list, err := p.List(t.Context(), s.Info().ID)
		must(t, err)
		if len(list) != 1 || list[0].Info().Volume != driver.VolumeID(vol) {
			t.Fatalf("List shows %v", list)
		}
		ready, err := list[0].Ready(t.Context())
		if ready != flushed || errors.Is(err, fs.ErrNotExist) == flushed {
			t.Errorf("flushed %v: Ready is %v, %v", flushed, ready, err)
		}
		_, _, err = list[0].(driver.DirReader).Dir(t.Context())
		if (err == nil) != flushed {
			t.Errorf("flushed %v: Dir: %v", flushed, err)
		}
		must(t, list[0].Delete(t.Context()))
	}
}
