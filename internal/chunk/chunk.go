// SPDX-License-Identifier: Apache-2.0

// Package chunk cuts byte streams into chunks at boundaries that depend on the
// content, so that an insertion changes the chunks around it and no others.
//
// It is the gear hash of Xia et al. (FastCDC, USENIX ATC 2016) with normalized
// chunking: a stricter mask before the average size than after it. The gear
// table is keyed, which keeps boundaries of different repositories apart. It
// does not hide them from somebody who may choose plaintexts (eprint 2025/532
// and 2025/558): that is why packs have no readable frames.
package chunk

import (
	"encoding/binary"
	"io"
)

// Sizes of chunks, in bytes.
const (
	Min = 256 << 10
	Avg = 1 << 20
	Max = 4 << 20
)

// With normalization level 2 the masks have log2(Avg)±2 bits. The bits lie at
// the top, where the gear hash has mixed the most bytes.
const (
	maskStrict = (1<<22 - 1) << (64 - 22)
	maskLoose  = (1<<18 - 1) << (64 - 18)
)

// Table is a keyed gear table. It is immutable.
type Table [256]uint64

// TableSize is the number of secret bytes that a table is made from.
const TableSize = 8 * len(Table{})

// NewTable makes a table from TableSize secret bytes.
func NewTable(secret []byte) *Table {
	var t Table
	for i := range t {
		t[i] = binary.LittleEndian.Uint64(secret[8*i:])
	}
	return &t
}

// Cut returns the length of the first chunk of b. A chunk shorter than Max
// that ends where b ends is only final if the stream ends there, too.
func (t *Table) Cut(b []byte) int {
	n := min(len(b), Max)
	if n <= Min {
		return n
	}
	var h uint64
	i := Min
	for ; i < min(n, Avg); i++ {
		if h = h<<1 + t[b[i]]; h&maskStrict == 0 {
			return i + 1
		}
	}
	for ; i < n; i++ {
		if h = h<<1 + t[b[i]]; h&maskLoose == 0 {
			return i + 1
		}
	}
	return n
}

// maxEmptyReads in a row mean that a reader is broken, as in package bufio.
const maxEmptyReads = 100

// Each calls fn with the consecutive chunks of r until it ends. It uses buf,
// of at least 2*Max bytes, and fn must not keep the chunk. It returns the
// number of bytes that fn took.
func (t *Table) Each(r io.Reader, buf []byte, fn func(chunk []byte) error) (int64, error) {
	var total int64
	start, end, eof, empty := 0, 0, false, 0
	for {
		for !eof && end-start < Max {
			if len(buf)-start < Max { // no room for a whole chunk behind start
				end = copy(buf, buf[start:end])
				start = 0
			}
			n, err := r.Read(buf[end:])
			end += n
			if empty++; n > 0 {
				empty = 0
			}
			switch {
			case err == io.EOF:
				eof = true
			case err != nil:
				return total, err
			case empty == maxEmptyReads:
				return total, io.ErrNoProgress
			}
		}
		if start == end {
			return total, nil
		}
		n := t.Cut(buf[start:end])
		if err := fn(buf[start : start+n]); err != nil {
			return total, err
		}
		start += n
		total += int64(n)
	}
}
