// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
	"github.com/stillpoint-go/protect/repo"
)

// tryWrite stores a directory as volume "v" of a new point.
func tryWrite(ctx context.Context, r *repo.Repository, id, dir string) (*repo.Point, error) {
	return r.Write(ctx, repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.Put(ctx, "v", dir)
	})
}

// TestSpecialFiles checks that nothing but files and directories is opened: a
// pipe would hang, a device would do anything.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "file", []byte("x"))
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	special := int64(2)
	if unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil {
		special++
	}
	r, _ := newRepo(t)
	p := write(t, r, "p", dir)
	if got := contents(t, r, p); len(got) != 2 || p.Volumes[0].Skipped != special {
		t.Errorf("got %v, %+v", got, p.Volumes)
	}
	for _, name := range []string{"pipe", "socket", "device"} {
		if _, err := tryWrite(t.Context(), r, "q", filepath.Join(dir, name)); err == nil {
			t.Errorf("a %s is a volume", name)
		}
	}
}

// TestNames stores names that are legal and unpleasant, deep and long paths,
// and refuses paths beyond the limits.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"new\nline", "not \xff UTF-8", strings.Repeat("n", 255), " ", "...", "a\\b", "-rf", "\x01", "$(id)", "c:", "CON", "\u202etxt"} {
		put(t, dir, name, fmt.Append(nil, i))
		put(t, dir, path.Join("d", name, name), fmt.Append(nil, i))
	}
	put(t, dir, strings.Repeat("d/", 255)+"f", []byte("256 levels"))
	r, b := newRepo(t)
	p := write(t, r, "p", dir)
	if diff := cmp.Diff(onDisk(t, dir), contents(t, reopen(t, b), p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	deep := t.TempDir()
	put(t, deep, strings.Repeat("d/", 256)+"f", []byte("257 levels"))
	long := t.TempDir()
	here := long
	root, err := os.OpenRoot(long)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for range 17 { // 17 × 250 bytes, beyond what one path can name
		if err := root.Mkdir(strings.Repeat("l", 249), 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := root.OpenRoot(strings.Repeat("l", 249))
		if err != nil {
			t.Fatal(err)
		}
		_ = root.Close()
		root = next
	}
	for _, dir := range []string{deep, here} {
		if _, err := tryWrite(t.Context(), r, "too deep", dir); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	}
}

// TestLinksAndAttributes stores hard links, symbolic links that lead outside,
// set-id modes, old and new times, and user.* attributes.
func TestLinksAndAttributes(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "secret", []byte("outside"))
	dir := t.TempDir()
	put(t, dir, "first", []byte("linked"))
	put(t, dir, "large", random(1, 300_000))
	put(t, dir, "empty", nil)
	for _, name := range []string{"first", "large", "empty"} {
		for _, to := range []string{"z " + name, "d/" + name} {
			_ = os.MkdirAll(filepath.Join(dir, "d"), 0o700)
			if err := os.Link(filepath.Join(dir, name), filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, target := range map[string]string{"abs": filepath.Join(outside, "secret"), "up": "../../../etc/passwd", "dir": outside, "loop": "loop", "long": strings.Repeat("x/", 2000), "dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "large"), 0o751|fs.ModeSetuid|fs.ModeSetgid), os.Chmod(filepath.Join(dir, "d"), 0o770|fs.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(-100, 123_456_789)
	if err := os.Chtimes(filepath.Join(dir, "first"), old, old); err != nil {
		t.Fatal(err)
	}
	xattrs := unix.Setxattr(filepath.Join(dir, "first"), "user.a", []byte("\x00\xff"), 0) == nil &&
		unix.Setxattr(filepath.Join(dir, "first"), "user.empty", nil, 0) == nil && unix.Setxattr(filepath.Join(dir, "d"), "user.dir", []byte("d"), 0) == nil
	r, b := newRepo(t)
	p := write(t, r, "p", dir)
	tr, err := reopen(t, b).Tree(t.Context(), p, "v")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*repo.Entry{}
	for e, err := range tr.Entries(t.Context(), ".") {
		if err != nil {
			t.Fatal(err)
		}
		got[e.Path] = e
		if strings.HasPrefix(e.Path, "dir/") || e.Path == "abs" && e.Type != repo.Symlink {
			t.Errorf("%q leads outside", e.Path)
		}
	}
	for _, name := range []string{"first", "large", "empty"} {
		first := got["d/"+name] // the first in order
		if first.Type != repo.File {
			t.Errorf("%s: %+v", name, first)
		}
		for _, link := range []string{name, "z " + name} {
			if e := got[link]; e.Type != repo.Link || e.Target != "d/"+name {
				t.Errorf("%s: %+v", link, e)
			}
		}
	}
	if e := got["abs"]; e.Target != filepath.Join(outside, "secret") {
		t.Errorf("%+v", e)
	}
	if e := got["d/large"]; e.Mode != 0o751|fs.ModeSetuid|fs.ModeSetgid {
		t.Errorf("mode %v", e.Mode)
	}
	if e := got["d"]; e.Mode != 0o770|fs.ModeSticky {
		t.Errorf("mode %v", e.Mode)
	}
	if e := got["d/first"]; !e.ModTime.Equal(old) || int(e.UID) != os.Getuid() {
		t.Errorf("%v, user %d", e.ModTime, e.UID)
	}
	realtest.Require(t, xattrs, "the file system of the test has no user.* attributes")
	want := []repo.Xattr{{Name: "user.a", Value: []byte("\x00\xff")}, {Name: "user.empty", Value: []byte{}}}
	if diff := cmp.Diff(want, got["d/first"].Xattrs) + cmp.Diff([]repo.Xattr{{Name: "user.dir", Value: []byte("d")}}, got["d"].Xattrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// mountTmpfs mounts a file system in memory, which has attributes of 64 KiB
// and files of up to 2^63 bytes.
func mountTmpfs(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m")
	realtest.Require(tb, err == nil, fmt.Sprint("tmpfs cannot be mounted: ", err))
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// TestWhatTheFormatCannotHold: a tenant must not be able to make points that
// are committed and cannot be read.
func TestWhatTheFormatCannotHold(t *testing.T) {
	dir := mountTmpfs(t)
	r, b := newRepo(t)
	write(t, r, "before", dir)
	for name, spoil := range map[string]func(file string) error{
		"huge hole": func(f string) error { return os.Truncate(f, 1<<63-1-4096) },
		"huge hole and data": func(f string) error {
			return errors.Join(os.Truncate(f, 1<<62+4096), writeAt(f, []byte("x"), 1<<62))
		},
		"large attribute": func(f string) error { return unix.Setxattr(f, "user.large", make([]byte, 64<<10), 0) },
		"many attributes": func(f string) error {
			for i := range 129 {
				if err := unix.Setxattr(f, fmt.Sprint("user.", i), nil, 0); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		put(t, dir, "file", []byte("content"))
		err := spoil(filepath.Join(dir, "file"))
		if errors.Is(err, unix.ENOTSUP) {
			t.Logf("%s: %v", name, err)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err = tryWrite(t.Context(), r, name, dir); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), `"file"`) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(filepath.Join(dir, "file")); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "file", nil)
	if err := os.Truncate(filepath.Join(dir, "file"), 1<<62); err != nil {
		t.Fatal(err)
	}
	write(t, r, "after", dir)
	healthy(t, reopen(t, b), 2)
}

// TestLargeDirectory stores many empty files in one directory.
func TestLargeDirectory(t *testing.T) {
	n := 5_000
	if *long {
		n = 100_000
	}
	dir := t.TempDir()
	for i := range n {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("file with a longer name %d", i)))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	r, b := newRepo(t)
	p := write(t, r, "p", dir)
	if p.Stats.Files != int64(n) {
		t.Errorf("%+v", p.Stats)
	}
	if got := contents(t, reopen(t, b), p); len(got) != n+1 {
		t.Errorf("%d entries", len(got))
	}
	put(t, dir, "one more", nil)
	if p = write(t, r, "q", dir); p.Stats.New > 500<<10 {
		t.Errorf("one more file costs %d bytes", p.Stats.New)
	}
}

// TestMountsAreNotCrossed mounts a file system inside of a volume.
func TestMountsAreNotCrossed(t *testing.T) {
	inner := mountTmpfs(t)
	put(t, inner, "file", []byte("other file system"))
	r, _ := newRepo(t)
	outer := filepath.Dir(inner)
	got := contents(t, r, write(t, r, "p", outer))
	if len(got) != 2 || got["v/"+filepath.Base(inner)] == "" {
		t.Errorf("got %v", got)
	}
	if got = contents(t, r, write(t, r, "q", inner)); len(got) != 2 {
		t.Errorf("the file system itself: %v", got)
	}
}

const asNobody = "PROTECT_TEST_AS_NOBODY"

// TestUnreadable runs itself as another user, who must not read everything:
// the session fails and says what.
func TestUnreadable(t *testing.T) {
	if dir := os.Getenv(asNobody); dir != "" {
		r, _ := newRepo(t)
		for name, want := range map[string]error{"secret": fs.ErrPermission, "locked": fs.ErrPermission, "open": nil} {
			if _, err := tryWrite(t.Context(), r, name, filepath.Join(dir, name)); !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "name") {
				t.Errorf("%s: %v", name, err)
			}
		}
		return
	}
	dir := t.TempDir()
	put(t, dir, "secret/name", []byte("x"))
	put(t, dir, "locked/name/x", []byte("x"))
	put(t, dir, "open/name", []byte("x"))
	if err := errors.Join(os.Chmod(filepath.Join(dir, "secret/name"), 0), os.Chmod(filepath.Join(dir, "locked/name"), 0)); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Setenv(asNobody, dir)
		t.Run("as this user", TestUnreadable)
		return
	}
	bin := filepath.Join(dir, "test") // that of go test is for root alone
	copyExecutable(t, bin)
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	scratch := filepath.Join(dir, "scratch")
	if err := errors.Join(os.Mkdir(scratch, 0o777), os.Chmod(scratch, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "-test.run=^TestUnreadable$", "-test.v")
	cmd.Dir = scratch
	cmd.Env = []string{asNobody + "=" + dir, "TMPDIR=" + scratch}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnreadable")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func copyExecutable(tb testing.TB, to string) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		tb.Fatal(err)
	}
}
