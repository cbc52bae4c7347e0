// SPDX-License-Identifier: Apache-2.0

//go:build !linux && !darwin

package durable

import (
	"errors"
	"os"
	"runtime"
)

const canSyncDir = runtime.GOOS != "windows"

// renameNoReplace has no implementation below a root here; NTFS has links.
func renameNoReplace(_ *os.Root, oldname, newname string) error {
	return &os.LinkError{Op: "exclusive rename", Old: oldname, New: newname, Err: errors.ErrUnsupported}
}
