// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin

package durable

import (
	"os"
	"path"
)

// inDirs opens the directories of two names below root for a rename.
func inDirs(root *os.Root, oldname, newname string, rename func(olddir, newdir int) error) error {
	olddir, err := root.Open(path.Dir(oldname))
	if err != nil {
		return err
	}
	defer func() { _ = olddir.Close() }()
	newdir, err := root.Open(path.Dir(newname))
	if err != nil {
		return err
	}
	defer func() { _ = newdir.Close() }()
	if err := rename(int(olddir.Fd()), int(newdir.Fd())); err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	return nil
}
