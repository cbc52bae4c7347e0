// SPDX-License-Identifier: Apache-2.0

package snapdir

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// escape returns the folder names, one below the other, that stand for a
// volume. Dots are escaped too, so that no name starts or ends with one, and
// slashes get a character of their own, so that people can read the rest.
func escape(volume string) []string {
	var b strings.Builder
	for i := range len(volume) {
		switch c := volume[i]; {
		case c == '/':
			b.WriteByte('+')
		case plain(c):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return split(b.String())
}

// split breaks an escaped name up into folder names.
func split(name string) []string {
	var parts []string
	for len(name) > maxPart {
		parts = append(parts, name[:maxPart]+"=")
		name = name[maxPart:]
	}
	return append(parts, name)
}

// unescape returns the volume of a joined folder name, if it is one.
func unescape(name string) (volume string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '+':
			b.WriteByte('/')
		case plain(c):
			b.WriteByte(c)
		case c == '%' && i+2 < len(name):
			n, err := strconv.ParseUint(name[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			b.WriteByte(byte(n))
			i += 2
		default:
			return "", false
		}
	}
	// A second spelling of the same name is not ours.
	return b.String(), name != "" && slices.Equal(escape(b.String()), split(name))
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '~'
}

// escapeID returns the folder name for id. Windows drops a dot at the end.
func escapeID(id string) string {
	if cut, ok := strings.CutSuffix(id, "."); ok {
		return cut + "%2E"
	}
	return id
}

// unescapeID returns the id of a folder name, if it is one.
func unescapeID(name string) (id string, ok bool) {
	if cut, ok := strings.CutSuffix(name, "%2E"); ok {
		name = cut + "."
	}
	if name == "" || name[0] == '.' || name[0] == '-' || len(name) > 200 {
		return "", false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return "", false
		}
	}
	return name, true
}
