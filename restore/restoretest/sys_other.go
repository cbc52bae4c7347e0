// SPDX-License-Identifier: Apache-2.0

//go:build !linux && !darwin

package restoretest

import "io/fs"

func owner(fs.FileInfo) string { return "" }

func fileID(fs.FileInfo) any { return nil }

func xattrs(string) ([]string, error) { return nil, nil }
