// SPDX-License-Identifier: Apache-2.0

// Package realtest decides what a test does when the real component that it
// needs (a file system, a server, a privilege) is missing.
package realtest

import (
	"os"
	"testing"
)

// Env is the variable that turns skipped real-component tests into failures.
// CI sets it, so that a green run means that everything ran.
const Env = "PROTECT_REQUIRE_REAL"

// Require skips the test with the reason why, unless ok. Under Env=1 it fails
// the test instead.
func Require(tb testing.TB, ok bool, why string) {
	tb.Helper()
	if ok {
		return
	}
	if os.Getenv(Env) == "1" {
		tb.Fatalf("%s=1, but %s", Env, why)
	}
	tb.Skip(why)
}
