// SPDX-License-Identifier: Apache-2.0

//go:build unix

package command_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
)

// slowScript freezes, takes its time until it says so, and thaws properly at
// the end of its input. What it freezes would survive it.
func slowScript(dir string) []string {
	return []string{"/bin/sh", "-c", `echo > "$0/frozen"; sleep 1; echo READY; cat; echo some evidence; rm "$0/frozen"`, dir}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestCancelBeforeReady cancels while a program that has frozen is on its way
// to say so: it gets the time to thaw.
func TestCancelBeforeReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, err := command.New(slowScript(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !exists(filepath.Join(dir, "frozen")) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if _, err := q.Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: 10 * time.Second}); err == nil {
		t.Error("a cancelled Quiesce succeeded")
	}
	if exists(filepath.Join(dir, "frozen")) {
		t.Error("left frozen")
	}
}

// holdAndWait is the process that is killed in TestKilledBeforeReady.
func holdAndWait(dir string) int {
	q, err := command.New(slowScript(dir), nil)
	if err == nil {
		_, err = q.Quiesce(context.Background(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	}
	fmt.Fprintln(os.Stderr, err)
	<-time.After(time.Hour)
	return 1
}

// TestKilledBeforeReady kills the parent of such a program: that nobody reads
// its output any more must not keep it from thawing.
func TestKilledBeforeReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.CommandContext(t.Context(), executable(t), "hold", dir)
	parent.Env = quick
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	frozen := func() bool { return exists(filepath.Join(dir, "frozen")) }
	waitUntil(t, "freeze", frozen)
	_ = parent.Process.Kill()
	_ = parent.Wait()
	waitUntil(t, "thaw", func() bool { return !frozen() })
}
