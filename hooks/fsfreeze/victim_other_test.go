// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package fsfreeze_test

const victimArg = "fsfreeze-victim"

func victim([]string) int { return 1 }
