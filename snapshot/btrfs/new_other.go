// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package btrfs

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// New returns an error that matches errors.ErrUnsupported: btrfs is on Linux.
func New(dir string, opts *Options) (driver.Provider, error) {
	_ = opts.withDefaults()
	return nil, fmt.Errorf("btrfs: %q: on %s: %w", dir, runtime.GOOS, errors.ErrUnsupported)
}
