// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package restore

import (
	"errors"
	"os"

	"github.com/stillpoint-go/protect/internal/durable"
)

const syncsAll = false

// syncAll flushes the staging directory itself; what is in it has been.
func syncAll(f *os.File) error { return durable.SyncDir(f) }

// isMount can only compare devices, see staging.
func isMount(*os.File) (bool, error) { return false, nil }

func syncOne(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return durable.SyncDir(f)
	}
	if err := f.Sync(); !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
