// SPDX-License-Identifier: Apache-2.0

package hooks

// Description is what a quiescer runs and touches, as far as it was configured:
// for those who look for mistakes before the first freeze, like package
// hooks/lint. Quiescers that freeze with programs, or freeze what others need,
// have a method Describe() Description; what it returns is the caller's. Argument
// lists begin with the path of the program.
type Description struct {
	// Held is a program that runs for the length of the freeze.
	Held []string
	// Freeze and Thaw are programs that end at once, and leave the target frozen
	// in between.
	Freeze, Thaw []string
	// Filesystem is a path on the file system that is frozen, if one is.
	Filesystem string
	// Helper is the program that thaws in our place. Empty means that nobody does.
	Helper []string
}
