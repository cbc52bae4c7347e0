// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package dirbucket

import (
	"errors"
	"syscall"
)

// isFull reports whether err says that there is no space left.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
