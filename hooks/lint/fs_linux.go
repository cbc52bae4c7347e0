// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sameFS says whether a file lies on the file system of a path: on one device, or
// below one mount, since the subvolumes of btrfs have devices of their own. Of a
// file that does not exist, the first parent that does counts. Subvolumes of one
// btrfs that are mounted apart go unnoticed.
func sameFS(path, file string) bool {
	x, ok := statOf(path)
	for ok {
		if y, exists := statOf(file); exists {
			return x.Dev_major == y.Dev_major && x.Dev_minor == y.Dev_minor ||
				x.Mask&y.Mask&unix.STATX_MNT_ID != 0 && x.Mnt_id == y.Mnt_id
		}
		parent := filepath.Dir(file)
		ok = filepath.IsAbs(file) && parent != file
		file = parent
	}
	return false
}

func statOf(path string) (*unix.Statx_t, bool) {
	st := new(unix.Statx_t)
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, st)
	return st, err == nil && filepath.IsAbs(path)
}
