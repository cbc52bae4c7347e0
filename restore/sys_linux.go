// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncsAll says that syncAll flushes the whole file system, so that files need
// no flush of their own.
const syncsAll = true

// syncAll flushes the file system that f is on. It fails if anything could not
// be written since f was opened.
func syncAll(f *os.File) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))) // a descriptor fits
}

// setTime sets the modification time of an open file; the access time is now.
func setTime(_ *os.Root, _ string, f *os.File, mtime time.Time) error {
	ts, err := times(mtime)
	if err != nil {
		return err
	}
	// x/sys has no futimens: utimensat without a path.
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0) // the kernel fills nothing in
	if errno != 0 {
		return os.NewSyscallError("utimensat", errno)
	}
	return nil
}

// setLinkTime sets the modification time of a symbolic link.
func setLinkTime(root *os.Root, name string, mtime time.Time) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	ts, err := times(mtime)
	if err != nil {
		return err
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(d.Fd()), name, ts[:], unix.AT_SYMLINK_NOFOLLOW)) // a descriptor fits
}

// times returns what utimensat takes. It does not go through nanoseconds since
// 1970, which end in 2262.
func times(mtime time.Time) ([2]unix.Timespec, error) {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return [2]unix.Timespec{}, fmt.Errorf("modification time: %w", err)
	}
	return [2]unix.Timespec{{Nsec: unix.UTIME_NOW}, ts}, nil
}

// isMount reports whether something is mounted on the directory.
func isMount(dir *os.File) (bool, error) {
	var stx unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, 0, &stx); err != nil { // a descriptor fits
		return false, os.NewSyscallError("statx", err)
	}
	return stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// syncOne is not needed, see syncsAll.
func syncOne(*os.File) error { return nil }
