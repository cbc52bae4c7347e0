// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Name names a segment. Names sort like the keys of their objects.
type Name struct {
	// Level is 0 for what a session wrote, and more for what was merged.
	Level uint8
	// ID is that of the session, or for merged segments a counter and a random
	// number: see Successor.
	ID [16]byte
	// Part counts the segments of a session, or the parts of a merged one.
	Part uint32
}

const nameSize = 1 + 16 + 4

// Key returns the object key of the segment.
func (n Name) Key() string {
	return fmt.Sprintf("%s%02x-%x-%08x", ondisk.IndexPrefix, n.Level, n.ID, n.Part)
}

// ParseKey returns the name of the segment that is stored under key.
func ParseKey(key string) (Name, bool) {
	var n Name
	rest, ok := strings.CutPrefix(key, ondisk.IndexPrefix)
	if !ok || len(rest) != 2+1+32+1+8 {
		return n, false
	}
	b, err := hex.DecodeString(rest[:2] + rest[3:35] + rest[36:])
	if err != nil {
		return n, false
	}
	n.Level, n.Part = b[0], binary.BigEndian.Uint32(b[17:])
	copy(n.ID[:], b[1:])
	return n, n.Key() == key // one spelling
}

// Compare orders names like their keys.
func (n Name) Compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Level, o.Level), bytes.Compare(n.ID[:], o.ID[:]), cmp.Compare(n.Part, o.Part))
}

// Successor returns a name for the first part of a merger of segments at a
// level that is at least theirs. It sorts after all of them, so that a listing
// that misses one because it was deleted meanwhile still meets the merger: of
// the same level, by a counter in the first half of the ID. The random number
// makes it unique.
func Successor(level uint8, random [8]byte, merged []Name) Name {
	n := Name{Level: level}
	var count uint64
	for _, m := range merged {
		if m.Level == level {
			count = max(count, binary.BigEndian.Uint64(m.ID[:]))
		}
	}
	binary.BigEndian.PutUint64(n.ID[:], count+1)
	copy(n.ID[8:], random[:])
	return n
}

// Above returns the level over this one, if there is one.
func Above(level uint8) uint8 {
	if level == math.MaxUint8 {
		return level
	}
	return level + 1
}

func (n Name) append(b []byte) []byte {
	b = append(b, n.Level)
	b = append(b, n.ID[:]...)
	return binary.LittleEndian.AppendUint32(b, n.Part)
}

func parseName(b []byte) Name {
	return Name{Level: b[0], ID: [16]byte(b[1:17]), Part: binary.LittleEndian.Uint32(b[17:])}
}

// appendNames appends names, which are sorted, without their number.
func appendNames(b []byte, names []Name) []byte {
	for _, n := range names {
		b = n.append(b)
	}
	return b
}

// parseNames decodes names that are strictly sorted.
func parseNames(b []byte) ([]Name, bool) {
	names := make([]Name, 0, len(b)/nameSize)
	for ; len(b) >= nameSize; b = b[nameSize:] {
		n := parseName(b)
		if len(names) > 0 && names[len(names)-1].Compare(n) >= 0 {
			return nil, false
		}
		names = append(names, n)
	}
	return names, len(b) == 0
}
