// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	canChown = false
	// openFlags open a new file. Reading its attributes needs the right to read.
	openFlags = os.O_CREATE | os.O_EXCL | os.O_RDWR
	// Windows does not replace directories.
	canReplace = false
)

// setTime sets the modification time. That of a file is set by the handle that
// wrote it, or else closing it would set it again.
func setTime(root *os.Root, name string, f *os.File, mtime time.Time) error {
	if name == "." {
		return root.Chtimes(name, mtime, mtime)
	}
	ft := syscall.NsecToFiletime(mtime.UnixNano())
	return os.NewSyscallError("SetFileTime", syscall.SetFileTime(syscall.Handle(f.Fd()), nil, &ft, &ft))
}

func setLinkTime(*os.Root, string, time.Time) error { return nil }

// setMode sets the read-only bit of a file. On directories it has no meaning.
func setMode(f *os.File, mode fs.FileMode) error {
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		return err
	}
	return f.Chmod(mode)
}

// replaceDir renames a directory to a name of root that is free.
func replaceDir(root *os.Root, oldname, newname string) error {
	if _, err := root.Lstat(newname); err == nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: fs.ErrExist}
	}
	return root.Rename(filepath.FromSlash(oldname), newname)
}

func sameDevice(fs.FileInfo, fs.FileInfo) bool { return true }
