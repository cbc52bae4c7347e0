// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"encoding/binary"
	"io"

	"gocloud.dev/blob/driver"
)

// What the conformance suite and the layout tests of package dirbucket_test need.
var (
	FileName = fileName
	Escape   = escape
	Unescape = unescape
)

const (
	TrailerMagic   = trailerMagic
	TrailerModulus = trailerModulus
	TrailerResidue = trailerResidue
)

// OpenDriver is OpenBucket without the portable type.
func OpenDriver(dir string, opts *Options) (driver.Bucket, error) { return openBucket(dir, opts) }

// Trailer returns what a file has behind content of this size.
func Trailer(size int64, metadata map[string]string, contentType string) ([]byte, error) {
	a := attributes{ContentType: contentType, Metadata: metadata}
	return a.encode(size)
}

// ReadTrailer decodes the trailer of a file, and returns the size of the content
// and the trailer that encodes the same.
func ReadTrailer(r io.ReaderAt, size int64) (content int64, again []byte, err error) {
	content, a, err := decodeTrailer(r, size)
	if err != nil || content == size {
		return content, nil, err
	}
	again, err = a.encode(content)
	return content, again, err
}

// SumTrailer returns a file with the right checksum in its trailer, if there is
// room for one, and the right size.
func SumTrailer(b []byte) []byte {
	pad := (trailerResidue - len(b)%trailerModulus + trailerModulus) % trailerModulus
	b = append(make([]byte, pad), b...)
	end := len(b) - trailerFixed
	if end < 0 {
		return b
	}
	size, n := binary.BigEndian.Uint64(b[end:]), binary.BigEndian.Uint32(b[end+8:])
	if size <= uint64(end) && uint64(n) <= uint64(end)-size { // not negative
		binary.BigEndian.PutUint32(b[end+12:], trailerSum(b[size:][:n], b[end:end+12]))
	}
	copy(b[end+16:], trailerMagic)
	return b
}
