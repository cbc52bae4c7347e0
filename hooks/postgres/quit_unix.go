// SPDX-License-Identifier: Apache-2.0

//go:build unix

package postgres

import "syscall"

// quit ends the server at once; its processes end as well.
func (at *instance) quit() { _ = at.cmd.Process.Signal(syscall.SIGQUIT) }
