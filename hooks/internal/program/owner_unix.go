// SPDX-License-Identifier: Apache-2.0

//go:build unix

package program

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// OwnerOf returns who owns a file, and may run a server on it.
func OwnerOf(name string) (Owner, error) {
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

// As makes a command run as the owner, in a process group of its own, so that a
// Ctrl-C in a terminal does not reach it.
func As(c *exec.Cmd, o Owner) error {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid := os.Geteuid(); uid == 0 {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}
	} else if uid != o.UID {
		return fmt.Errorf("the files belong to user %d, and this process runs as %d", o.UID, uid)
	}
	return nil
}

// Stop asks a program to end in order.
func Stop(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGTERM) }
