// SPDX-License-Identifier: Apache-2.0

//go:build unix

package repo

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openFlags keep an exchanged file from making us follow it or wait for it.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

type fileStat struct {
	id       fileID
	links    uint64
	uid, gid uint32
	blocks   int64 // of 512 bytes
}

func stat(info fs.FileInfo) fileStat {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileStat{}
	}
	return fileStat{
		id:    fileID{uint64(s.Dev), uint64(s.Ino)}, //nolint:unconvert // types differ between systems
		links: uint64(s.Nlink),                      //nolint:unconvert // types differ between systems
		uid:   s.Uid, gid: s.Gid, blocks: s.Blocks,
	}
}

// segment is a part of a file that holds data.
type segment struct{ off, end int64 }

// nextSegment returns the next part of f that holds data, from off; off == end
// == size if only a hole is left.
func nextSegment(f *os.File, off, size int64) segment {
	start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA) // a descriptor fits
	switch {
	case errors.Is(err, unix.ENXIO):
		return segment{size, size}
	case err != nil || start >= size:
		if err == nil {
			return segment{size, size}
		}
		return segment{off, size} // the file system cannot tell
	}
	end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE) // a descriptor fits
	if err != nil || end > size || end <= start {
		end = size
	}
	return segment{start, end}
}
