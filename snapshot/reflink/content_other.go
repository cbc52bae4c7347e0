// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package reflink

import "os"

// content gives dst the first size bytes of src.
func (c *cloner) content(dst, src *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	_, err := c.plain(dst, src, 0, size)
	return err
}
