// SPDX-License-Identifier: Apache-2.0

//go:build unix

package holder

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
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

// spare returns another descriptor of the reading end of a pipe, for the child
// to inherit: so that writing to its output is no error that kills it, when we
// are gone and it has yet to thaw.
func spare(r *os.File) (*os.File, error) {
	conn, err := r.SyscallConn()
	if err != nil {
		return nil, err
	}
	dup := -1
	cerr := conn.Control(func(fd uintptr) {
		// Not through os.File.Fd, which would make r block.
		dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(dup), r.Name()), nil // a descriptor
}
