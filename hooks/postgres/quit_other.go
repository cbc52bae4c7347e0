// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package postgres

func (at *instance) quit() { _ = at.cmd.Process.Kill() }
