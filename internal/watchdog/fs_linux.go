// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The requests of linux/fs.h; x/sys/unix does not have them.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// FreezeFS freezes the file system that f lies on. The kernel allows one
// freeze at a time, whoever asks for it: ErrBusy.
func FreezeFS(f *os.File) error {
	switch err := ioctl(f, fiFreeze); {
	case errors.Is(err, unix.EBUSY):
		return ErrBusy
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return ErrUnsupported
	case errors.Is(err, unix.EPERM):
		return ErrDenied
	case err != nil:
		return fmt.Errorf("FIFREEZE: %w", err)
	}
	return nil
}

// ThawFS ends the freeze of the file system that f lies on, whoever made it.
// Without one it returns ErrNotFrozen.
func ThawFS(f *os.File) error {
	switch err := ioctl(f, fiThaw); {
	case errors.Is(err, unix.EINVAL):
		return ErrNotFrozen
	case errors.Is(err, unix.EPERM):
		return ErrDenied
	case err != nil:
		return fmt.Errorf("FITHAW: %w", err)
	}
	return nil
}

func ioctl(f *os.File, req uint) error {
	for {
		err := unix.IoctlSetInt(int(f.Fd()), req, 0)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// fileSystem is a mounted file system. Its directory is open from before the
// freeze until after the thaw, so that the path need not be walked again and
// the mount cannot go away.
type fileSystem struct {
	dir  *os.File
	lock *os.File
}

func openFS(spec Spec, lock *os.File) (target, error) {
	dir, err := os.Open(spec.Path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	if st.Dev != spec.Device {
		return nil, errors.Join(fmt.Errorf("%q is another file system than before", spec.Path), dir.Close())
	}
	return &fileSystem{dir: dir, lock: lock}, nil
}

// freeze writes dirty data first, as long as nobody has to wait for it: once the
// kernel freezes, it blocks writers and cannot be interrupted.
func (s *fileSystem) freeze(ctx context.Context) error {
	if err := unix.Syncfs(int(s.dir.Fd())); err != nil {
		return fmt.Errorf("syncfs: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return FreezeFS(s.dir)
}

// undo is false: the kernel's errors are exact.
func (s *fileSystem) undo() bool { return false }

// held tries to freeze again. That the kernel refuses it is the only answer it
// has to give. If it does not refuse, somebody has thawed.
func (s *fileSystem) held() error {
	switch err := FreezeFS(s.dir); {
	case errors.Is(err, ErrBusy):
		return nil
	case err == nil:
		return errors.New("the file system was thawed by somebody else")
	default:
		return err
	}
}

func (s *fileSystem) thaw(context.Context) error { return ThawFS(s.dir) }

func (s *fileSystem) output() map[string][]byte { return nil }

func (s *fileSystem) close(thawed bool) {
	_ = s.dir.Close()
	release(s.lock, thawed)
}

// lockMemory keeps the helper in memory, so that it never waits for a swap
// file on the file system that it froze. Pages are locked as they are used:
// what is not in memory yet can be read also from a frozen file system. Without
// the privilege for it, the helper is as good as any other process.
func lockMemory() { _ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT) }
