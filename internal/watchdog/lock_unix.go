// SPDX-License-Identifier: Apache-2.0

//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package watchdog

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openNonblock keeps a path that leads to a pipe from blocking.
const openNonblock = unix.O_NONBLOCK

// TryLock says whether the lock is ours.
func TryLock(f *os.File) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case errors.Is(err, unix.EINTR):
		default:
			return false, fmt.Errorf("flock: %w: %w", errors.ErrUnsupported, err)
		}
	}
}

// unlock gives the lock up for all who share it.
func unlock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// identify returns which file f is.
func identify(f *os.File) (*LockID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	return &LockID{Device: uint64(st.Dev), Inode: uint64(st.Ino)}, nil //nolint:unconvert // the types differ by system
}

// inherited returns the descriptor that the parent passed on. Programs get it
// when they are to, and not by accident.
func inherited() (*os.File, error) {
	if _, err := unix.FcntlInt(lockFD, unix.F_GETFD, 0); err != nil {
		return nil, err
	}
	unix.CloseOnExec(lockFD)
	return os.NewFile(lockFD, "lock"), nil
}
