// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"

	"golang.org/x/sys/windows"
)

// IsFull reports whether err says that there is no space left, on the disk or in
// the quota.
func IsFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}
