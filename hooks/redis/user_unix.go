// SPDX-License-Identifier: Apache-2.0

//go:build unix

package redis

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// ownerOf returns who owns a file, and may run a server on it.
func ownerOf(name string) (Owner, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Owner{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}, fmt.Errorf("owner of %q: %w", name, errors.ErrUnsupported)
	}
	if st.Uid == 0 {
		return Owner{}, errors.New("the files belong to root, and a server must not run as root: set RestoreOptions.Owner")
	}
	return Owner{UID: int(st.Uid), GID: int(st.Gid)}, nil
}

// as makes a command run as the owner, in a process group of its own, so that a
// Ctrl-C in a terminal does not reach it.
func as(c *exec.Cmd, o Owner) error {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid := os.Geteuid(); uid == 0 {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}
	} else if uid != o.UID {
		return fmt.Errorf("the files belong to user %d, and this process runs as %d", o.UID, uid)
	}
	return nil
}

// terminate asks a server to shut down.
func terminate(p *os.Process) { _ = p.Signal(syscall.SIGTERM) }
