// SPDX-License-Identifier: Apache-2.0

//go:build race

package repo_test

// raceEnabled says that pools forget what they hold, and that memory means
// nothing.
const raceEnabled = true
