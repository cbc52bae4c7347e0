// SPDX-License-Identifier: Apache-2.0

package ondisk

import (
	"fmt"
	"strings"
)

// ValidName reports whether s may be a path component: 1 to 255 bytes, neither
// "." nor "..", without slash and NUL. Whether the target platform can hold the
// name is for the restore to decide.
func ValidName(s string) bool {
	return s != "" && len(s) <= MaxName && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// ValidPath reports whether p is a relative path of valid names within limits;
// "." is the root of a volume.
func ValidPath(p string) bool {
	if p == "." {
		return true
	}
	if len(p) > MaxPath || strings.Count(p, "/") >= MaxDepth {
		return false
	}
	for name := range strings.SplitSeq(p, "/") {
		if !ValidName(name) {
			return false
		}
	}
	return true
}

// PathKey returns the tree key of a valid path. NUL separates the components,
// so that byte order is the order of a depth-first walk.
func PathKey(p string) []byte {
	if p == "." {
		return nil
	}
	return []byte(strings.ReplaceAll(p, "/", "\x00"))
}

// KeyPath is the inverse of PathKey. It fails for a key that no valid path has.
func KeyPath(key []byte) (string, error) {
	if len(key) == 0 {
		return ".", nil
	}
	if strings.ContainsRune(string(key), '/') {
		return "", fmt.Errorf("%w: slash in a name", ErrMalformed)
	}
	p := strings.ReplaceAll(string(key), "\x00", "/")
	if p == "." || !ValidPath(p) {
		return "", fmt.Errorf("%w: invalid path", ErrMalformed)
	}
	return p, nil
}
