// SPDX-License-Identifier: Apache-2.0

//go:build !race

package repo_test

const raceEnabled = false
