// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
	"github.com/stillpoint-go/protect/restore"
	"github.com/stillpoint-go/protect/restore/restoretest"
)

// mount mounts a file system in memory.
func mount(tb testing.TB, dir, options string) {
	tb.Helper()
	realtest.Require(tb, os.Getuid() == 0, "mounting needs root")
	must(tb, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	tb.Cleanup(func() { must(tb, unix.Unmount(dir, unix.MNT_DETACH)) })
}

// TestMountPoint restores into a file system, which cannot be replaced.
func TestMountPoint(t *testing.T) {
	r, _ := newRepo(t)
	dir := sample(t)
	put(t, dir, "lost+found/recovered", []byte("x"))
	p := write(t, r, "one", map[string]string{"v": dir})
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, target string)
		err     error
	}{
		"empty": {func(*testing.T, string) {}, nil},
		"lost+found": {func(t *testing.T, target string) {
			mkdir(t, target, "lost+found")
		}, nil},
		"stale": {func(t *testing.T, target string) {
			put(t, target, ".protect-restore-dead/sub/f", nil)
		}, nil},
		"not empty": {func(t *testing.T, target string) {
			put(t, target, "x", nil)
		}, fs.ErrExist},
		"something in lost+found": {func(t *testing.T, target string) {
			put(t, target, "lost+found/x", nil)
		}, fs.ErrExist},
		"full": {func(t *testing.T, target string) {
			must(t, unix.Mount("tmpfs", target, "tmpfs", unix.MS_REMOUNT, "size=1m"))
		}, syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			target := t.TempDir()
			mount(t, target, "mode=0755,size=100m")
			tt.prepare(t, target)
			before := names(t, target)
			_, err := restore.Volume(t.Context(), r, p, "v", target, nil)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if tt.err != nil {
				nothing(t, target, before...)
				return
			}
			compare(t, dir, target, nil)
		})
	}
}

// TestBindMount restores into a mount point on its parent's file system.
func TestBindMount(t *testing.T) {
	realtest.Require(t, os.Getuid() == 0, "mounting needs root")
	r, _ := newRepo(t)
	dir := t.TempDir()
	put(t, dir, "a/b", []byte("x"))
	p := write(t, r, "one", map[string]string{"v": dir})
	parent := t.TempDir()
	volume, target := mkdir(t, parent, "volume"), mkdir(t, parent, "t")
	must(t, unix.Mount(volume, target, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	_, err := restore.Volume(t.Context(), r, p, "v", target, nil)
	must(t, err)
	compare(t, dir, volume, nil)
}

// TestFillCollision creates names in a target that is being filled: what is
// there stays, and the restore takes back what it has moved.
func TestFillCollision(t *testing.T) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	for i := range 10 {
		put(t, dir, fmt.Sprintf("d%d/f", i), []byte("ours"))
		put(t, dir, fmt.Sprintf("f%d", i), []byte("ours"))
		must(t, os.Symlink("x", filepath.Join(dir, fmt.Sprintf("l%d", i))))
	}
	p := write(t, r, "one", map[string]string{"v": dir})
	for _, name := range []string{"f5", "l5", "d5/g"} {
		target := t.TempDir()
		mount(t, target, "mode=0755")
		var once sync.Once
		_, err := restore.Volume(t.Context(), r, p, "v", target, &restore.Options{
			Owners: true,
			MapOwner: func(u, g uint32) (uint32, uint32) {
				once.Do(func() { put(t, target, name, []byte("theirs")) })
				return u, g
			},
		})
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
		nothing(t, target, strings.TrimSuffix(name, "/g"))
		if data, err := os.ReadFile(filepath.Join(target, name)); string(data) != "theirs" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// TestFull restores into file systems of sizes that do not suffice.
func TestFull(t *testing.T) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	for i := range 20 {
		put(t, dir, fmt.Sprintf("d%d/f%d", i%3, i), random(uint64(i), 10_000))
	}
	p := write(t, r, "one", map[string]string{"v": dir})
	parent := t.TempDir()
	mount(t, parent, "mode=0755")
	failed, ok := 0, 0
	for size := 1; size < 100; size += 3 {
		must(t, unix.Mount("tmpfs", parent, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%dk", size*4)))
		target := filepath.Join(parent, "t")
		_, err := restore.Volume(t.Context(), r, p, "v", target, nil)
		if err == nil {
			compare(t, dir, target, nil)
			must(t, os.RemoveAll(target))
			ok++
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d KiB: %v", size*4, err)
		}
		failed++
		nothing(t, parent)
	}
	if failed < 5 || ok < 5 {
		t.Errorf("%d failed, %d did not", failed, ok)
	}
}

func TestOwnersAndSpecialModes(t *testing.T) {
	realtest.Require(t, os.Getuid() == 0, "changing owners needs root")
	r, _ := newRepo(t)
	dir := t.TempDir()
	for i, m := range []fs.FileMode{fs.ModeSetuid | 0o755, fs.ModeSetgid | 0o2755&0o777, fs.ModeSticky | 0o644, 0o600} {
		f := put(t, dir, fmt.Sprintf("f%d", i), []byte("x"))
		d := mkdir(t, dir, fmt.Sprintf("d%d", i))
		for _, p := range []string{f, d} {
			must(t, os.Chown(p, 1000+i, 2000+i))
			must(t, os.Chmod(p, m))
		}
	}
	must(t, os.Symlink("x", filepath.Join(dir, "l")))
	must(t, os.Lchown(filepath.Join(dir, "l"), 3000, 3001))
	p := write(t, r, "one", map[string]string{"v": dir})

	parent := t.TempDir()
	all := filepath.Join(parent, "all")
	report, err := restore.Volume(t.Context(), r, p, "v", all, &restore.Options{Owners: true, SpecialModes: true})
	must(t, err)
	compare(t, dir, all, nil)
	if report.SkippedTotal != 0 {
		t.Errorf("skipped: %v", report.Skipped)
	}

	none := filepath.Join(parent, "none")
	report, err = restore.Volume(t.Context(), r, p, "v", none, nil)
	must(t, err)
	if report.SkippedTotal != 6 {
		t.Errorf("skipped: %v", report.Skipped)
	}
	for path, line := range restoretest.Describe(t, none, &restoretest.Options{IgnoreTimes: true}) {
		if !strings.Contains(line, " 0:0") || strings.ContainsAny(strings.Fields(line)[0], "ugt") {
			t.Errorf("%s: %s", path, line)
		}
	}

	mapped := filepath.Join(parent, "mapped")
	_, err = restore.Volume(t.Context(), r, p, "v", mapped, &restore.Options{
		Owners: true, MapOwner: func(u, g uint32) (uint32, uint32) { return u + 1, g + 1 },
	})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(mapped, "l"), &st))
	if st.Uid != 3001 || st.Gid != 3002 {
		t.Errorf("mapped owner: %d:%d", st.Uid, st.Gid)
	}
}

// TestNoXattrs restores attributes to a file system that has none.
func TestNoXattrs(t *testing.T) {
	realtest.Require(t, os.Getuid() == 0, "mounting needs root")
	r, _ := newRepo(t)
	dir := t.TempDir()
	put(t, dir, "f", []byte("x"))
	must(t, unix.Setxattr(filepath.Join(dir, "f"), "user.a", []byte("b"), 0))
	p := write(t, r, "one", map[string]string{"v": dir})
	parent := t.TempDir()
	must(t, unix.Mount("ramfs", parent, "ramfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(parent, unix.MNT_DETACH)) })
	report, err := restore.Volume(t.Context(), r, p, "v", filepath.Join(parent, "t"), nil)
	must(t, err)
	if len(report.Skipped) != 1 || report.Skipped[0] != (restore.Skip{Volume: "v", Path: "f", What: "attribute user.a"}) {
		t.Errorf("skipped: %v", report.Skipped)
	}
}

// TestUnprivileged runs the tests of this package as a user without rights.
func TestUnprivileged(t *testing.T) {
	realtest.Require(t, os.Getuid() == 0, "becoming another user needs root")
	dir, err := os.MkdirTemp("", "unprivileged") //nolint:usetesting // t.TempDir is closed to other users
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe := filepath.Join(dir, "test")
	data, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(exe, data, 0o755))
	tmp := mkdir(t, dir, "tmp")
	must(t, os.Chown(tmp, 65534, 65534))
	must(t, os.Chmod(dir, 0o755))
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=RoundTrip|TestPath|Targets|Sweep|Faults|TestHostile|ReadOnlyParent")
	cmd.Env = []string{"TMPDIR=" + tmp, "HOME=" + tmp}
	cmd.Dir = tmp
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestReadOnlyParent fills a directory of ours in one that is not: it cannot be
// replaced.
func TestReadOnlyParent(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere; TestUnprivileged runs this")
	}
	r, _ := newRepo(t)
	dir := sample(t)
	must(t, os.Chmod(mkdir(t, dir, "readonly"), 0o555))
	must(t, os.Chmod(filepath.Dir(put(t, dir, "readonly2/sub/f", nil)), 0o500))
	p := write(t, r, "one", map[string]string{"v": dir})
	for _, mode := range []fs.FileMode{0o500, 0o100} {
		parent := scratch(t)
		target := mkdir(t, parent, "t")
		must(t, os.Chmod(parent, mode))
		_, err := restore.Volume(t.Context(), r, p, "v", target, nil)
		must(t, os.Chmod(parent, 0o700))
		must(t, err)
		compare(t, dir, target, nil)
	}
}

// TestKill kills processes in the middle of restores. What they leave is swept,
// and the target was never there.
func TestKill(t *testing.T) {
	if dir := os.Getenv("RESTORE_TEST_KILL"); dir != "" {
		restoreForever(t, dir)
		return
	}
	parent, tmp := t.TempDir(), t.TempDir()
	exe, err := os.Executable()
	must(t, err)
	for range 3 {
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "RESTORE_TEST_KILL="+parent, "TMPDIR="+tmp)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Error(err)
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	left := names(t, parent)
	for _, name := range left {
		if !restore.IsStaging(name) {
			t.Errorf("a killed restore left %q", name)
		}
	}
	n, err := restore.Sweep(t.Context(), parent)
	if n != 3 || err != nil {
		t.Errorf("swept %d of %v, %v", n, left, err)
	}
	nothing(t, parent)
}

// restoreForever reports on standard output that a restore is under way, and
// blocks it.
func restoreForever(t *testing.T, parent string) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	put(t, dir, "a/b", []byte("x"))
	p := write(t, r, "one", map[string]string{"v": dir})
	_, err := restore.Volume(t.Context(), r, p, "v", filepath.Join(parent, "t"), &restore.Options{
		Owners: true,
		MapOwner: func(u, g uint32) (uint32, uint32) {
			fmt.Println("under way")
			select {}
		},
	})
	t.Errorf("not killed: %v", err)
}
