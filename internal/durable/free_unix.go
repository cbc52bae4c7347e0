// SPDX-License-Identifier: Apache-2.0

//go:build darwin || linux

package durable

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes this process may still write into the file system
// of a directory, where that is known.
func Free(dir string) (free int64, known bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false, fmt.Errorf("durable: free space of %q: %w", dir, err)
	}
	return int64(st.Bavail * uint64(st.Bsize)), true, nil
}
