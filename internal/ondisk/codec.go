// SPDX-License-Identifier: Apache-2.0

package ondisk

import (
	"encoding/binary"
	"fmt"
)

// AppendUvarint appends v as a canonical varint.
func AppendUvarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// AppendBytes appends p with its length in front.
func AppendBytes[T ~string | ~[]byte](b []byte, p T) []byte {
	return append(AppendUvarint(b, uint64(len(p))), p...)
}

// Decoder reads an encoding from a byte slice. The first error sticks: later
// calls return zero values, so that callers check Err or Done once.
type Decoder struct {
	b   []byte
	err error
}

// NewDecoder returns a decoder of b, which it does not copy.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Len returns the number of bytes that are left.
func (d *Decoder) Len() int { return len(d.b) }

// Err returns the first error.
func (d *Decoder) Err() error { return d.err }

// Done returns the first error, or an error if bytes are left.
func (d *Decoder) Done() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("trailing bytes")
	}
	return d.err
}

// Fail records that the value just read is invalid.
func (d *Decoder) Fail(what string) { d.fail(what) }

func (d *Decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	d.b = nil
}

// Uvarint reads a canonical varint that is at most limit.
func (d *Decoder) Uvarint(limit uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	switch {
	case n <= 0:
		d.fail("varint")
		return 0
	case n > 1 && d.b[n-1] == 0:
		d.fail("varint is not canonical")
		return 0
	case v > limit:
		d.fail("value exceeds its limit")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	if p := d.Fixed(1); p != nil {
		return p[0]
	}
	return 0
}

// Fixed reads n bytes, which alias the input; nil on error.
func (d *Decoder) Fixed(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || len(d.b) < n {
		d.fail("input ends early")
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

// Bytes reads a byte string of at most limit bytes, which aliases the input.
func (d *Decoder) Bytes(limit int) []byte {
	return d.Fixed(int(d.Uvarint(uint64(limit)))) // bounded by limit
}
