// SPDX-License-Identifier: Apache-2.0

//go:build unix

package holder

import (
	"os"
	"os/exec"
	"syscall"
)

const rootDir = "/"

// detach gives the child a process group or session of its own.
func detach(cmd *exec.Cmd, session bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: session, Setpgid: !session}
}

// signalGroup terminates or kills the child and its descendants. The error
// says that nobody is left, which the caller sees on its own.
func signalGroup(p *os.Process, kill bool) {
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, sig)
}
