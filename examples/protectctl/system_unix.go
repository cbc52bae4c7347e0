// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// errLocked reports a directory that a living process has locked.
var errLocked = errors.New("in use by another process")

// locksExclude says that lockDir keeps other processes out.
const locksExclude = true

// lockDir locks a directory until the returned file is closed, or the process
// ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // a descriptor fits
		return nil, errors.Join(fmt.Errorf("lock %q: %w", dir, errLocked), f.Close())
	}
	// It may have been removed by who had the lock before.
	have, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(dir); err == nil && !os.SameFile(have, now) {
			err = errLocked
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sameFileSystem reports whether two paths are on one file system.
func sameFileSystem(a, b string) bool {
	da, errA := os.Stat(a)
	db, errB := os.Stat(b)
	if errA != nil || errB != nil {
		return false
	}
	sa, okA := da.Sys().(*syscall.Stat_t)
	sb, okB := db.Sys().(*syscall.Stat_t)
	return okA && okB && sa.Dev == sb.Dev
}

// chownLike gives f the owner of the file that info is about. Only root can.
func chownLike(f *os.File, info fs.FileInfo) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(s.Uid), int(s.Gid))
}
