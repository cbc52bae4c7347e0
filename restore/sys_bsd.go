// SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux

package restore

import (
	"os"
	"time"
)

// setTime sets the times of what has the name in root: not all systems can do
// so by descriptor with nanoseconds.
func setTime(root *os.Root, name string, _ *os.File, mtime time.Time) error {
	return root.Chtimes(name, mtime, mtime)
}

func setLinkTime(*os.Root, string, time.Time) error { return nil }
