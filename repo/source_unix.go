// SPDX-License-Identifier: Apache-2.0

//go:build unix

package repo

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// openFlags keep an exchanged file from making us follow it or wait for it.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

type fileStat struct {
	id       fileID
	links    uint64
	uid, gid uint32
	blocks   int64     // of 512 bytes
	changed  time.Time // zero: not known here
}

func stat(info fs.FileInfo) fileStat {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileStat{}
	}
	return fileStat{
		id:    fileID{uint64(s.Dev), uint64(s.Ino)}, //nolint:unconvert // types differ between systems
		links: uint64(s.Nlink),                      //nolint:unconvert // types differ between systems
		uid:   s.Uid, gid: s.Gid, blocks: s.Blocks, changed: changeTime(s),
	}
}

// segment is a part of a file that holds data.
type segment struct{ off, end int64 }

// nextSegment returns the next part of f that holds data, from off; off == end
// == size if only a hole is left. It moves the file's position.
func nextSegment(f io.Seeker, off, size int64) segment {
	start, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return segment{size, size}
	case err != nil || start < off: // the file system cannot tell
		return segment{off, size}
	case start >= size:
		return segment{size, size}
	}
	end, err := f.Seek(start, unix.SEEK_HOLE)
	if err != nil || end > size || end <= start {
		end = size
	}
	return segment{start, end}
}
