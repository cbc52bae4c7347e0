// SPDX-License-Identifier: Apache-2.0

//go:build unix

package restore

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	canChown = true
	// openFlags open a new file. Nothing is followed, ever.
	openFlags = os.O_CREATE | os.O_EXCL | os.O_WRONLY | unix.O_NOFOLLOW
)

func setMode(f *os.File, mode fs.FileMode) error { return f.Chmod(mode) }

// replaceDir renames a directory to a name of root, which may be that of an
// empty directory. Anything else under that name is kept, and an error.
func replaceDir(root *os.Root, oldname, newname string) error {
	from, err := root.Open(path.Dir(oldname))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := root.Open(".")
	if err != nil {
		return err
	}
	defer to.Close()
	err = unix.Renameat(int(from.Fd()), path.Base(oldname), int(to.Fd()), newname) // descriptors fit
	if errors.Is(err, unix.ENOTDIR) {
		err = fs.ErrExist // a file
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	return nil
}

// canReplace reports whether replaceDir can replace an empty directory.
const canReplace = true

// sameDevice reports whether two files are on one file system.
func sameDevice(a, b fs.FileInfo) bool {
	x, okX := a.Sys().(*syscall.Stat_t)
	y, okY := b.Sys().(*syscall.Stat_t)
	return okX && okY && x.Dev == y.Dev
}
