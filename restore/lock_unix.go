// SPDX-License-Identifier: Apache-2.0

//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package restore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock locks an open directory until it is closed or the process ends. held
// reports that another process, or another handle, has the lock. Some network
// file systems have no such locks: errors.ErrUnsupported.
func lock(f *os.File) (held bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // a descriptor fits
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	}
	return false, errors.Join(errors.ErrUnsupported, os.NewSyscallError("flock", err))
}
