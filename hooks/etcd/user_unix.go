// SPDX-License-Identifier: Apache-2.0

//go:build unix

package etcd

import (
	"os"
	"os/exec"
	"syscall"
)

// ownerOf returns who owns a file, if this process may become him.
func ownerOf(name string) (o Owner, may bool, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return Owner{}, false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return Owner{}, false, nil
	}
	return Owner{UID: int(st.Uid), GID: int(st.Gid)}, true, nil
}

// as makes a command run as the owner, in a process group of its own, so that a
// Ctrl-C in a terminal does not reach it.
func as(c *exec.Cmd, o Owner) {
	c.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Credential: &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)},
	}
}
