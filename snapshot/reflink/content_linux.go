// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// maxRange bounds one copy_file_range call, so that it can be interrupted.
const maxRange = 16 << 20

// nocowFlag is FS_NOCOW_FL of linux/fs.h.
const nocowFlag = 0x00800000

// content gives dst the first size bytes of src, in the cheapest way that
// works.
func (c *cloner) content(dst, src *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	f := files{dst: dst, src: src, to: int(dst.Fd()), from: int(src.Fd())}
	if !c.noClone.Load() {
		err := f.clone()
		if err == nil {
			c.cloned.Store(true)
			return nil
		}
		if !cannot(err) {
			return err
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ETXTBSY) {
			c.noClone.Store(true) // not just for this file
		}
	}
	return c.extents(f, size)
}

// files are the two ends of a copy, with their descriptors, because each call
// of Fd is a system call.
type files struct {
	dst, src *os.File
	to, from int
}

// clone shares the extents of src with dst. btrfs does so only if both or none
// are exempt from copy-on-write, as the files of databases often are.
func (f files) clone() error {
	err := unix.IoctlFileClone(f.to, f.from)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	flags, flagErr := unix.IoctlGetUint32(f.from, unix.FS_IOC_GETFLAGS)
	if flagErr != nil || flags&nocowFlag == 0 {
		return err
	}
	if unix.IoctlSetPointerInt(f.to, unix.FS_IOC_SETFLAGS, nocowFlag) != nil {
		return err
	}
	return unix.IoctlFileClone(f.to, f.from)
}

// cannot reports whether err says that a way to copy is not to be had here,
// rather than that copying failed.
func cannot(err error) bool {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTTY),
		errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ETXTBSY),
		errors.Is(err, unix.EPERM), errors.Is(err, unix.EBADF):
		return true
	}
	return false
}

// extents copies the parts of src that have data, and leaves holes between.
func (c *cloner) extents(f files, size int64) error {
	for off := int64(0); off < size; {
		data, err := unix.Seek(f.from, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole
		}
		hole := size
		if err == nil {
			hole, err = unix.Seek(f.from, data, unix.SEEK_HOLE)
		}
		if err != nil {
			data, hole = off, size // the file system knows no holes
		}
		if data >= size {
			break
		}
		hole = min(hole, size)
		end, err := c.copyRange(f, data, hole)
		if err != nil {
			return err
		}
		if end < hole {
			return f.dst.Truncate(end) // truncated meanwhile
		}
		off = hole
	}
	return f.dst.Truncate(size)
}

// copyRange copies from off to end and returns where the source ended.
func (c *cloner) copyRange(f files, off, end int64) (int64, error) {
	for off < end && !c.noRange.Load() {
		if err := c.ctx.Err(); err != nil {
			return off, err
		}
		roff, woff := off, off
		n, err := unix.CopyFileRange(f.from, &roff, f.to, &woff, int(min(end-off, maxRange)), 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case err != nil && cannot(err):
			c.noRange.Store(true)
		case err != nil:
			return off, err
		case n == 0:
			// The end, or a file system that does not really support it:
			// reading decides.
			return c.plain(f.dst, f.src, off, end)
		default:
			c.ranged.Store(true)
			off += int64(n)
		}
	}
	return c.plain(f.dst, f.src, off, end)
}
