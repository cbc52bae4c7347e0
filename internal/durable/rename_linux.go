// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

const canSyncDir = true

// renameNoReplace resolves the directories through root, so that only the last
// elements are left to a call that root does not offer.
func renameNoReplace(root *os.Root, oldname, newname string) error {
	return inDirs(root, oldname, newname, func(olddir, newdir int) error {
		err := unix.Renameat2(olddir, path.Base(oldname), newdir, path.Base(newname), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // the flag is unknown to the file system
			err = unix.ENOTSUP
		}
		return err
	})
}
