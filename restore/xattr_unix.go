// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin || freebsd || netbsd

package restore

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setXattr sets an attribute of an open file. The error matches
// errors.ErrUnsupported if the file system has none.
func setXattr(f *os.File, name string, value []byte) error {
	if err := unix.Fsetxattr(int(f.Fd()), name, value, 0); err != nil { // a descriptor fits
		return fmt.Errorf("set attribute %q: %w", name, err)
	}
	return nil
}
