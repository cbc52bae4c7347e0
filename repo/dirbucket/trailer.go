// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
)

// The attributes of an object live in its own file, so that one link or rename
// publishes both. A file has a trailer if its size is trailerResidue modulo
// trailerModulus and it ends in trailerMagic:
//
//	content | JSON of attributes | zeros | content size 8 | JSON size 4 | CRC-32C 4 | magic 16
//
// Integers are big-endian; the CRC covers the JSON and the two sizes. The size
// rule spares a listing the opening of nearly all plain files. A plain object
// that happens to look as if it had a trailer gets one without attributes.
const (
	trailerMagic    = "\x00dirbucket attr\n"
	trailerModulus  = 512
	trailerResidue  = 173
	trailerFixed    = 8 + 4 + 4 + len(trailerMagic)
	maxAttributes   = 1 << 20 // bytes of JSON
	defaultTypeMIME = "application/octet-stream"
)

var errTrailer = errors.New("damaged attributes")

// attributes are what an object has besides its bytes.
type attributes struct {
	CacheControl       string            `json:"cacheControl,omitempty"`
	ContentDisposition string            `json:"contentDisposition,omitempty"`
	ContentEncoding    string            `json:"contentEncoding,omitempty"`
	ContentLanguage    string            `json:"contentLanguage,omitempty"`
	ContentType        string            `json:"contentType,omitempty"`
	Metadata           map[string]string `json:"metadata,omitempty"`
}

func (a *attributes) empty() bool {
	return a.CacheControl == "" && a.ContentDisposition == "" && a.ContentEncoding == "" && a.ContentLanguage == "" &&
		(a.ContentType == "" || a.ContentType == defaultTypeMIME) && len(a.Metadata) == 0
}

func (a *attributes) contentType() string {
	if a.ContentType == "" {
		return defaultTypeMIME
	}
	return a.ContentType
}

// looksTrailed reports whether a file of this size and end is taken to have a
// trailer.
func looksTrailed(size int64, end []byte) bool {
	return size%trailerModulus == trailerResidue && string(end) == trailerMagic
}

// encode returns the trailer for content of the given size.
func (a *attributes) encode(size int64) ([]byte, error) {
	buf, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("dirbucket: attributes: %w", err)
	}
	if len(buf) > maxAttributes {
		return nil, fmt.Errorf("dirbucket: attributes have %d bytes, the limit is %d: %w", len(buf), maxAttributes, fs.ErrInvalid)
	}
	n := len(buf)
	total := size + int64(n+trailerFixed)
	pad := (trailerResidue - total%trailerModulus + trailerModulus) % trailerModulus
	buf = append(buf, make([]byte, pad)...)
	sizes := binary.BigEndian.AppendUint64(nil, uint64(size))
	sizes = binary.BigEndian.AppendUint32(sizes, uint32(n))
	sum := trailerSum(buf[:n], sizes)
	buf = append(buf, sizes...)
	buf = binary.BigEndian.AppendUint32(buf, sum)
	return append(buf, trailerMagic...), nil
}

// decodeTrailer returns the size of the content and the attributes of a file of
// fileSize bytes. The error matches errTrailer if the trailer is damaged.
func decodeTrailer(r io.ReaderAt, fileSize int64) (int64, attributes, error) {
	var a attributes
	if fileSize%trailerModulus != trailerResidue || fileSize < int64(trailerFixed) {
		return fileSize, a, nil
	}
	var fixed [trailerFixed]byte
	if _, err := r.ReadAt(fixed[:], fileSize-int64(trailerFixed)); err != nil {
		return 0, a, err
	}
	if !looksTrailed(fileSize, fixed[16:]) {
		return fileSize, a, nil
	}
	size := binary.BigEndian.Uint64(fixed[:8])
	n := uint64(binary.BigEndian.Uint32(fixed[8:12]))
	room := uint64(fileSize) - uint64(trailerFixed)
	if n > maxAttributes || size > room || n > room-size || room-size-n >= trailerModulus {
		return 0, a, errTrailer
	}
	buf := make([]byte, n)
	if _, err := r.ReadAt(buf, int64(size)); err != nil {
		return 0, a, err
	}
	if trailerSum(buf, fixed[:12]) != binary.BigEndian.Uint32(fixed[12:16]) {
		return 0, a, errTrailer
	}
	if err := json.Unmarshal(buf, &a); err != nil {
		return 0, attributes{}, errTrailer
	}
	return int64(size), a, nil
}

func trailerSum(json, sizes []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(json, table), table, sizes)
}
