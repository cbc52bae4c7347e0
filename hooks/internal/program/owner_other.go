// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package program

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
)

// OwnerOf returns an error: servers are run on a Unix only.
func OwnerOf(string) (Owner, error) {
	return Owner{}, fmt.Errorf("a private server on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// As returns an error, as OwnerOf does.
func As(*exec.Cmd, Owner) error { return errors.ErrUnsupported }

// Stop ends a program.
func Stop(c *exec.Cmd) error { return c.Process.Kill() }
