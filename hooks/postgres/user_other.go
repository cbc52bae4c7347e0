// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package postgres

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
)

func ownerOf(string) (Owner, error) {
	return Owner{}, fmt.Errorf("a private server on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func as(*exec.Cmd, Owner) error { return errors.ErrUnsupported }

func (at *instance) quit() { _ = at.cmd.Process.Kill() }
