// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package redis

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

func ownerOf(string) (Owner, error) {
	return Owner{}, fmt.Errorf("a private server on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func as(*exec.Cmd, Owner) error { return errors.ErrUnsupported }

func terminate(p *os.Process) { _ = p.Kill() }
