// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// syncEachFile: Ready flushes the whole file system instead.
const syncEachFile = false

// bootID names this run of the machine, or is empty if nothing does.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// syncFS flushes the file system that path is on.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// readAttributes reads what f has besides data.
func readAttributes(f *os.File, fi fs.FileInfo) (attributes, error) {
	a := attributes{mode: fi.Mode(), modTime: fi.ModTime(), owner: ownedBy(fi)}
	var err error
	a.xattrs, err = readXattrs(int(f.Fd()))
	return a, err
}

func readXattrs(fd int) ([]xattr, error) {
	list, err := grow(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var attrs []xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		if !bytes.HasPrefix(name, []byte("user.")) {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, string(name), buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, xattr{string(name), value})
	}
	return attrs, nil
}

// grow calls fn with a larger and larger buffer until the result fits. The
// kernel limits both attributes and their list to 64 KiB.
func grow(fn func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 16 {
		buf := make([]byte, size)
		n, err := fn(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<16 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// apply sets a on f, except for the time, which is set last, by name. The
// owner comes first because changing it drops bits of the mode.
func (a attributes) apply(f *os.File) error {
	if a.set {
		if err := f.Chown(a.uid, a.gid); err != nil {
			return err
		}
	}
	for _, x := range a.xattrs {
		if err := unix.Fsetxattr(int(f.Fd()), x.name, x.value, 0); err != nil {
			return &fs.PathError{Op: "fsetxattr", Path: x.name, Err: err}
		}
	}
	return f.Chmod(a.mode)
}

// applyLink sets owner and time of the symbolic link name in root.
func applyLink(root *os.Root, name string, o owner, modTime time.Time) error {
	if o.set {
		if err := root.Lchown(name, o.uid, o.gid); err != nil {
			return err
		}
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	ts, err := unix.TimeToTimespec(modTime)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
	return unix.UtimesNanoAt(int(d.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// ownedBy returns the owner to give to the clone of fi. Only root can give
// files away.
func ownedBy(fi fs.FileInfo) owner {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return owner{}
	}
	return owner{set: true, uid: int(st.Uid), gid: int(st.Gid)}
}
