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

import "encoding/binary"

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

// Cutter cuts a stream that is handed to it in pieces of any size. It is not
// safe for concurrent use.
type Cutter struct {
	t          *Table
	buf        []byte
	start, end int // what waits in buf
	fn         func(chunk []byte) error
}

// NewCutter returns a cutter that calls fn with the chunks in order. fn must
// not keep them. The cutter takes 2*Max bytes of memory.
func NewCutter(t *Table, fn func(chunk []byte) error) *Cutter {
	return &Cutter{t: t, buf: make([]byte, 2*Max), fn: fn}
}

// Write appends p to the stream.
func (c *Cutter) Write(p []byte) error {
	for len(p) > 0 {
		if c.end == len(c.buf) {
			c.end = copy(c.buf, c.buf[c.start:])
			c.start = 0
		}
		n := copy(c.buf[c.end:], p)
		c.end += n
		p = p[n:]
		for c.end-c.start >= Max {
			if err := c.cut(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cutter) cut() error {
	b := c.buf[c.start:c.end]
	n := c.t.Cut(b)
	c.start += n
	return c.fn(b[:n])
}

// Flush cuts what waits: the stream ends here, and another may begin.
func (c *Cutter) Flush() error {
	for c.start < c.end {
		if err := c.cut(); err != nil {
			return err
		}
	}
	c.start, c.end = 0, 0
	return nil
}

// Rest takes back what waits, instead of having it cut. It is valid until the
// next Write.
func (c *Cutter) Rest() []byte {
	b := c.buf[c.start:c.end]
	c.start, c.end = 0, 0
	return b
}
