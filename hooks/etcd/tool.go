// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"os/exec"
	"time"
)

// toolCommand makes a program of etcd ready to run: with no environment, since
// each of its flags could be set by that, and ended if ctx is.
func toolCommand(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.Env = "/", []string{"ETCDCTL_API=3"}
	c.WaitDelay = 10 * time.Second
	return c
}
