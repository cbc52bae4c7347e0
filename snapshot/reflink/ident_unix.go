// SPDX-License-Identifier: Apache-2.0

//go:build unix

package reflink

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// identify returns where the file fi is, for comparison.
func identify(fi fs.FileInfo) identity {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{device: uint64(st.Dev), inode: uint64(st.Ino), links: uint64(st.Nlink)}
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
