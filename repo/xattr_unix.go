// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin

package repo

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// readXattrs returns the user.* attributes of an open file. Those of other
// namespaces are for the system that the file is on.
func readXattrs(f *os.File) ([]ondisk.Xattr, error) {
	fd := int(f.Fd()) // a descriptor fits
	n, err := unix.Flistxattr(fd, nil)
	if n == 0 || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	list := make([]byte, n+1024) // a little room, should some be added now
	if n, err = unix.Flistxattr(fd, list); err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var out []ondisk.Xattr
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, ondisk.MaxXattrBytes)
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		out = append(out, ondisk.Xattr{Name: name, Value: slices.Clone(value[:n])})
	}
	slices.SortFunc(out, func(a, b ondisk.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
