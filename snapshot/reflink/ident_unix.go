// SPDX-License-Identifier: Apache-2.0

//go:build unix

package reflink

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// identify returns where the file fi is, for comparison.
func identify(fi fs.FileInfo) identity {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{device: uint64(st.Dev), inode: uint64(st.Ino), links: uint64(st.Nlink)} //nolint:unconvert // types differ between systems
}

// openFiles counts the descriptors that this process has of each file.
func openFiles() map[fileKey]int {
	d, err := os.Open("/dev/fd")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // what can be read is better than nothing
	open := make(map[fileKey]int, len(names))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(fd, &st); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG {
			open[fileKey{uint64(st.Dev), uint64(st.Ino)}]++ //nolint:unconvert // types differ between systems
		}
	}
	return open
}

// syncDir makes the entries of a directory durable.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// openFlags neither follow a link nor wait for the other end of a FIFO.
const openFlags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// replaced reports whether an entry could not be opened because it is not a
// regular file any more.
func replaced(err error) bool {
	return errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENOTDIR)
}
