// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package lint

import "path/filepath"

// sameFS says whether a file lies below a path: file systems are frozen on Linux only, so
// that this is for scripts that act elsewhere.
func sameFS(path, file string) bool {
	rel, err := filepath.Rel(path, file)
	return err == nil && filepath.IsLocal(rel)
}
