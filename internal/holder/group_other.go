// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package holder

import (
	"os"
	"os/exec"
)

const rootDir = ""

// detach does nothing: there are no process groups.
func detach(*exec.Cmd, bool) {}

// signalGroup kills the child alone, and at once.
func signalGroup(p *os.Process, _ bool) { _ = p.Kill() }

// spare: children inherit nothing but their standard files here.
func spare(*os.File) (*os.File, error) { return nil, nil } // nothing, on purpose
