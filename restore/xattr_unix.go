// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin || freebsd || netbsd

package restore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setXattr sets an attribute of an open file. The error matches
// errors.ErrUnsupported if the file system has none, or none such: some hold no
// more than a block of them, which they report like a disk that is full.
func setXattr(f *os.File, name string, value []byte) error {
	err := unix.Fsetxattr(int(f.Fd()), name, value, 0) // a descriptor fits
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENAMETOOLONG):
		err = errors.Join(errors.ErrUnsupported, err)
	}
	return fmt.Errorf("set attribute %q: %w", name, err)
}
