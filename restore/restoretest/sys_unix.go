// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin

package restoretest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func owner(info fs.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d", s.Uid, s.Gid)
}

// fileID identifies a file that has several names.
func fileID(info fs.FileInfo) any {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.IsDir() || s.Nlink < 2 {
		return nil
	}
	return [2]uint64{uint64(s.Dev), s.Ino} //nolint:unconvert // types differ between systems
}

// xattrs returns the user.* attributes of a file.
func xattrs(local string) ([]string, error) {
	n, err := unix.Llistxattr(local, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(local, list); err != nil {
		return nil, err
	}
	var out []string
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(local, name, value)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(out)
	return out, nil
}
