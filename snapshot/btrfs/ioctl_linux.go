// SPDX-License-Identifier: Apache-2.0

package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The numbers and structures are those of linux/btrfs.h.
const (
	magic = 0x94
	// Where the direction is in an ioctl number depends on the architecture,
	// but FICLONE is a write everywhere.
	iow = uintptr(unix.FICLONE) & 0xE0000000
	ior = 0xC0000000 ^ iow

	iocSnapDestroy   = iow | 4096<<16 | magic<<8 | 15
	iocSnapCreateV2  = iow | 4096<<16 | magic<<8 | 23
	iocGetFlags      = ior | 8<<16 | magic<<8 | 25
	iocFSInfo        = ior | 1024<<16 | magic<<8 | 31
	iocSubvolInfo    = ior | 504<<16 | magic<<8 | 60
	iocSubvolRootref = ior | iow | 4096<<16 | magic<<8 | 61
	iocLookupUser    = ior | iow | 4096<<16 | magic<<8 | 62

	flagReadOnly = 1 << 1
	// rootInode is the inode number of each subvolume's root directory.
	rootInode = 256
	maxName   = 255
)

// argument is the 4096 bytes that most of the calls exchange. It is made of
// words to be aligned as the kernel's structures are.
type argument [512]uint64

func (a *argument) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(a)), 4096) }

func ioctl(f *os.File, req uintptr, a *argument) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(unsafe.Pointer(a)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

// isBtrfs reports whether f is on btrfs.
func isBtrfs(f *os.File) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, err
	}
	return uint32(st.Type) == unix.BTRFS_SUPER_MAGIC, nil
}

// snapshot makes the read-only snapshot name of subvol in the directory dir.
// When it returns nil the snapshot is on disk.
func snapshot(subvol, dir *os.File, name string) error {
	var a argument // struct btrfs_ioctl_vol_args_v2
	a[0] = uint64(subvol.Fd())
	a[2] = flagReadOnly
	copy(a.bytes()[56:56+maxName], name)
	err := ioctl(dir, iocSnapCreateV2, &a)
	runtime.KeepAlive(subvol)
	return err
}

// destroy removes the subvolume name from the directory dir.
func destroy(dir *os.File, name string) error {
	var a argument // struct btrfs_ioctl_vol_args
	copy(a.bytes()[8:8+maxName], name)
	return ioctl(dir, iocSnapDestroy, &a)
}

// readOnly reports whether the subvolume f is read-only.
func readOnly(f *os.File) (bool, error) {
	var a argument
	err := ioctl(f, iocGetFlags, &a)
	return a[0]&flagReadOnly != 0, err
}

// fsid identifies the file system that f is on.
func fsid(f *os.File) ([16]byte, error) {
	var a argument // struct btrfs_ioctl_fs_info_args
	err := ioctl(f, iocFSInfo, &a)
	return [16]byte(a.bytes()[16:32]), err
}

// created returns when the subvolume f came into being.
func created(f *os.File) (time.Time, error) {
	var a argument // struct btrfs_ioctl_get_subvol_info_args
	if err := ioctl(f, iocSubvolInfo, &a); err != nil {
		return time.Time{}, err
	}
	b := a.bytes()[392:] // otime
	return time.Unix(int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint32(b[8:]))).UTC(), nil
}

// nested returns the paths of the subvolumes in the subvolume f, but not of
// those deeper down, relative to it.
func nested(f *os.File) ([]string, error) {
	var paths []string
	var refs argument // struct btrfs_ioctl_get_subvol_rootref_args
	for {
		err := ioctl(f, iocSubvolRootref, &refs)
		more := errors.Is(err, unix.EOVERFLOW)
		if err != nil && !more {
			return nil, err
		}
		// min_treeid, 255 pairs of treeid and dirid, and their number.
		n := int(refs.bytes()[8+255*16])
		for i := range n {
			path, err := lookup(f, refs[1+2*i], refs[2+2*i])
			if errors.Is(err, unix.ENOENT) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			paths = append(paths, path)
		}
		if !more {
			return paths, nil
		}
	}
}

// lookup returns the path, relative to the subvolume f, of the subvolume tree
// that has its entry in the directory with inode dir.
func lookup(f *os.File, tree, dir uint64) (string, error) {
	var a argument // struct btrfs_ioctl_ino_lookup_user_args
	a[0], a[1] = dir, tree
	if err := ioctl(f, iocLookupUser, &a); err != nil {
		return "", err
	}
	b := a.bytes()
	name, _, _ := bytes.Cut(b[16:16+256], []byte{0})
	path, _, _ := bytes.Cut(b[16+256:], []byte{0})
	return string(path) + string(name), nil // path ends in a slash
}
