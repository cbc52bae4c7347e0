// SPDX-License-Identifier: Apache-2.0

//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// errLocked is what lockDir never returns here.
var errLocked = errors.New("in use by another process")

// locksExclude says that directories cannot be locked: what a killed process
// left stays.
const locksExclude = false

// lockDir returns a file to close, and locks nothing.
func lockDir(string) (*os.File, error) { return os.Open(os.DevNull) }

// sameFileSystem reports whether two paths are on one file system.
func sameFileSystem(a, b string) bool {
	return strings.EqualFold(filepath.VolumeName(a), filepath.VolumeName(b))
}

// chownLike does nothing: the system has no numeric owners.
func chownLike(*os.File, fs.FileInfo) error { return nil }
