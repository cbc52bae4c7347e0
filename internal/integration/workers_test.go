// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// workers do steps 1, 2, 3, … each, and note what is acknowledged.
type workers struct {
	acked []atomic.Int64 // by worker
	stop  func()
}

// startWorkers starts workers that go on until the test is over.
func startWorkers(t testing.TB, count int, pause time.Duration, step func(ctx context.Context, worker int, n int64) error) *workers {
	t.Helper()
	l := &workers{acked: make([]atomic.Int64, count)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range count {
		wg.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				if err := step(ctx, w, n); err != nil {
					if ctx.Err() == nil {
						t.Errorf("worker %d, step %d: %v", w, n, err)
					}
					return
				}
				l.acked[w].Store(n)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	l.stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(l.stop)
	return l
}

// seen returns what every worker has acknowledged by now.
func (l *workers) seen() []int64 {
	var seen []int64
	for w := range l.acked {
		seen = append(seen, l.acked[w].Load())
	}
	return seen
}

// waitMore waits until every worker has done some more.
func (l *workers) waitMore(t testing.TB, more int64) {
	t.Helper()
	before := l.seen()
	waitFor(t, func() bool {
		for w, n := range l.seen() {
			if n < before[w]+more {
				return false
			}
		}
		return true
	})
}

// holder is a process that holds a target, and can be stalled: one of the tests
// here, which prints HOLDS, waits for a line, and prints LOST with what Held and
// Thaw say then.
type holder struct {
	process *os.Process
	stdin   io.Writer
	lines   *bufio.Scanner
}

// startHolder starts the test as a process that knows what to hold by its
// environment, and returns when it holds.
func startHolder(t *testing.T, test, env string) *holder {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), exe, fmt.Sprintf("-test.run=^%s$", test))
	c.Env = append(os.Environ(), env)
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	h := &holder{c.Process, stdin, bufio.NewScanner(stdout)}
	for h.lines.Scan() && h.lines.Text() != "HOLDS" {
	}
	return h
}

func (h *holder) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := h.process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// saysLost lets a stopped process go on, which has to know that it holds nothing
// any more.
func (h *holder) saysLost(t *testing.T) {
	t.Helper()
	h.signal(t, syscall.SIGCONT)
	<-time.After(200 * time.Millisecond) // it sees what has happened
	if _, err := io.WriteString(h.stdin, "go on\n"); err != nil {
		t.Fatal(err)
	}
	for h.lines.Scan() {
		if rest, ok := strings.CutPrefix(h.lines.Text(), "LOST "); ok {
			if rest != "true true" {
				t.Errorf("Held and Thaw after the stall say that the hold is lost: %s", rest)
			}
			return
		}
	}
	t.Error("the process did not say what it knows")
}
