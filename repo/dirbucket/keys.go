// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

const (
	// dirSuffix is at the end of directories, and never in an escaped name.
	dirSuffix = "+"
	// emptyElement stands for an empty element of a key, as in "a//b" or "a/".
	emptyElement = "%"
	// maxElement leaves room for dirSuffix in the 255 bytes of a file name.
	maxElement = 254
)

// fileName returns the file of key, slash-separated and relative to the bucket.
func fileName(key string) (string, error) {
	if key == "" {
		return "", fmt.Errorf("dirbucket: the key is empty: %w", fs.ErrInvalid)
	}
	i := strings.LastIndexByte(key, '/')
	dir, err := dirName(key[:i+1])
	if err != nil {
		return "", err
	}
	base, err := escapeElement(key[i+1:])
	if err != nil {
		return "", err
	}
	return path.Join(dir, base), nil
}

// dirName returns the directory of the keys that begin with prefix, which is
// empty or ends in a slash.
func dirName(prefix string) (string, error) {
	if prefix == "" {
		return ".", nil
	}
	var elements []string
	for element := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
		name, err := escapeElement(element)
		if err != nil {
			return "", err
		}
		elements = append(elements, name+dirSuffix)
	}
	return strings.Join(elements, "/"), nil
}

func escapeElement(element string) (string, error) {
	name := escape(element)
	if len(name) > maxElement {
		return "", fmt.Errorf("dirbucket: key element %.40q… has %d bytes after escaping, the limit is %d: %w",
			element, len(name), maxElement, fs.ErrInvalid)
	}
	return name, nil
}

// escape maps an element of a key to a file name, one to one. The alphabet is
// what every file system keeps apart and every shell leaves alone: no capitals
// (macOS and Windows ignore case), nothing beyond ASCII (macOS ignores Unicode
// normalization), no dot at an end (hidden, "..", dropped by Windows).
func escape(element string) string {
	if element == "" {
		return emptyElement
	}
	var b strings.Builder
	device := isDevice(element)
	for i := range len(element) {
		c := element[i]
		switch {
		case 'a' <= c && c <= 'z' && (i > 0 || !device),
			'0' <= c && c <= '9', c == '-', c == '_',
			c == '.' && i > 0 && i < len(element)-1:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteString(hex.EncodeToString([]byte{c}))
		}
	}
	return b.String()
}

// unescape reverses escape and reports whether name is one of its results;
// other names are those of foreign files.
func unescape(name string) (string, bool) {
	if name == emptyElement {
		return "", true
	}
	element := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			element = append(element, name[i])
			continue
		}
		if len(name)-i < 3 {
			return "", false
		}
		c, err := hex.DecodeString(name[i+1 : i+3])
		if err != nil {
			return "", false
		}
		element = append(element, c[0])
		i += 2
	}
	return string(element), escape(string(element)) == name
}

// isDevice reports whether Windows takes a file of this name for a device.
func isDevice(element string) bool {
	stem, _, _ := strings.Cut(element, ".")
	switch stem {
	case "con", "prn", "aux", "nul":
		return true
	}
	return len(stem) == 4 && (stem[:3] == "com" || stem[:3] == "lpt") && '0' <= stem[3] && stem[3] <= '9'
}
