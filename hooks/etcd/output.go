// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"sync"
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

// tail keeps the end of what a program writes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const maxTail = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String returns the text with everything replaced that is not for a terminal.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
	return strings.Map(func(r rune) rune {
		if r == '\n' || strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
