// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log, in bytes.
type LSN uint64

// ParseLSN reads the form 16/B374D848.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("postgres: %.40q is no position in a WAL", s)
	}
	return LSN(h<<32 | l), nil
}

// String returns the form 16/B374D848.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLSN(string(text))
	return err
}

// segmentName is the length of the name of a WAL segment.
const segmentName = 24

// segments yields the names of the WAL segments from the byte at start to the
// byte before stop. Evidence may claim any number of them.
func segments(timeline uint32, start, stop LSN, size int64) iter.Seq[string] {
	perID := uint64(1<<32) / uint64(size)
	return func(yield func(string) bool) {
		for n := uint64(start) / uint64(size); n <= (uint64(stop)-1)/uint64(size); n++ {
			if !yield(fmt.Sprintf("%08X%08X%08X", timeline, n/perID, n%perID)) {
				return
			}
		}
	}
}

// segmentStart returns the position of the first byte of a segment by its
// name, and its timeline.
func segmentStart(name string, size int64) (LSN, uint32, bool) {
	if len(name) != segmentName {
		return 0, 0, false
	}
	tli, err1 := strconv.ParseUint(name[:8], 16, 32)
	id, err2 := strconv.ParseUint(name[8:16], 16, 32)
	n, err3 := strconv.ParseUint(name[16:], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil {
		return 0, 0, false
	}
	return LSN(id<<32 + n*uint64(size)), uint32(tli), true
}

// isSegment says whether a file of this name is a WAL segment.
func isSegment(name string) bool {
	_, _, ok := segmentStart(name, 1<<24) // of whatever size
	return ok
}

// validSegmentSize says whether a server can have segments of this size.
func validSegmentSize(size int64) bool {
	return size >= 1<<20 && size <= 1<<30 && size&(size-1) == 0
}
