// SPDX-License-Identifier: Apache-2.0

// Package loopfstest mounts small file systems for tests.
package loopfstest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// Mount makes a file system of the kind, such as "btrfs" or "xfs", in an image
// file, and mounts it until the test is over. It skips the test where that is
// impossible.
func Mount(tb testing.TB, kind string) string {
	tb.Helper()
	mkfs, err := exec.LookPath("mkfs." + kind)
	realtest.Require(tb, err == nil, "mkfs."+kind+" is missing")
	realtest.Require(tb, os.Geteuid() == 0, "mounting needs root")
	dir := tb.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(image, 400<<20); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(mount, 0o755); err != nil {
		tb.Fatal(err)
	}
	run(tb, true, mkfs, "-q", image)
	run(tb, true, "mount", "-o", "loop", image, mount)
	tb.Cleanup(func() {
		out, err := exec.CommandContext(cleanupContext(tb), "umount", mount).CombinedOutput()
		if err != nil {
			tb.Errorf("umount: %v: %s", err, out)
			// Better an invisible mount than one that outlives the test.
			_ = exec.CommandContext(cleanupContext(tb), "umount", "-l", mount).Run()
		}
	})
	return mount
}

// Command runs a program and fails the test if that fails.
func Command(tb testing.TB, name string, args ...string) {
	tb.Helper()
	run(tb, false, name, args...)
}

func run(tb testing.TB, require bool, name string, args ...string) {
	tb.Helper()
	out, err := exec.CommandContext(cleanupContext(tb), name, args...).CombinedOutput()
	if err == nil {
		return
	}
	realtest.Require(tb, !require, name+" failed: "+err.Error()+": "+string(out))
	tb.Fatalf("%s %q: %v: %s", name, args, err, out)
}

// cleanupContext also works in a Cleanup, when that of the test is done.
func cleanupContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
	tb.Cleanup(cancel)
	return ctx
}
