// SPDX-License-Identifier: Apache-2.0

//go:build unix

package etcd

import (
	"os"
	"syscall"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// ownerOf returns who owns a file, if this process may become him.
func ownerOf(name string) (o program.Owner, may bool, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return program.Owner{}, false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return program.Owner{}, false, nil
	}
	return program.Owner{UID: int(st.Uid), GID: int(st.Gid)}, true, nil
}
