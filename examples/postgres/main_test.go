// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"os"
	"testing"
)

// TestRun is the whole program, on a small database.
func TestRun(t *testing.T) {
	if _, err := findPrograms(""); err != nil {
		if os.Getenv("PROTECT_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, dir + "/.."} { // another user passes through
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(t.Context(), options{dir: dir, points: 2, scale: 1}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
