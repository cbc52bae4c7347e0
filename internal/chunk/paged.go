// SPDX-License-Identifier: Apache-2.0

package chunk

import (
	"bytes"
	"encoding/binary"
)

// Head is how many bytes of a file Paged wants to see.
const Head = 68 << 10

// Paged reports whether what begins like this is written in pages that stay
// where they are: the file of a database, or the image of a disk. To look for
// boundaries in it is wasted work, since nothing in it ever moves by less than
// a page.
//
// It is conservative. Both mistakes cost space or time, never content: whatever
// is not recognised is cut at boundaries that depend on the content.
func Paged(head []byte) bool {
	return sqlite(head) || innodb(head) || postgres(head) || disk(head)
}

// at returns n bytes at off, or zeros where the head is too short.
func at(head []byte, off, n int) []byte {
	if off+n > len(head) {
		return make([]byte, n)
	}
	return head[off : off+n]
}

// sqlite knows the header string and the page size, sqlite.org/fileformat2.
func sqlite(head []byte) bool {
	size := binary.BigEndian.Uint16(at(head, 16, 2)) // 1 stands for 65536
	return bytes.HasPrefix(head, []byte("SQLite format 3\x00")) && (size == 1 || size >= 512 && size&(size-1) == 0)
}

// innodb knows the first page of a tablespace: it has number 0, is of the type
// FIL_PAGE_TYPE_FSP_HDR, and names its tablespace twice.
func innodb(head []byte) bool {
	return binary.BigEndian.Uint32(at(head, 4, 4)) == 0 && binary.BigEndian.Uint16(at(head, 24, 2)) == 8 &&
		len(head) >= 16<<10 && bytes.Equal(head[34:38], head[38:42])
}

// postgres knows two pages in a row of a relation: of 8 KiB, layout version 4,
// with offsets in order (bufpage.h).
func postgres(head []byte) bool {
	const page = 8 << 10
	ok := func(p []byte) bool {
		le := binary.LittleEndian
		flags, lower, upper, special := le.Uint16(p[10:]), le.Uint16(p[12:]), le.Uint16(p[14:]), le.Uint16(p[16:])
		return le.Uint16(p[18:]) == page|4 && flags < 8 && 24 <= lower && lower <= upper && upper <= special && special <= page
	}
	return len(head) >= 2*page && ok(head) && ok(head[page:])
}

// disk knows partition tables, encrypted volumes and common file systems.
func disk(head []byte) bool {
	for _, m := range []struct {
		off   int
		magic string
	}{
		{512, "EFI PART"}, {0, "LUKS\xba\xbe"}, {0, "XFSB"}, {64<<10 + 64, "_BHRfS_M"}, {3, "NTFS    "}, {512, "LABELONE"},
	} {
		if string(at(head, m.off, len(m.magic))) == m.magic {
			return true
		}
	}
	// The magic number of ext2 to ext4 is short: its block size and revision
	// must be plausible, too (ext4.h).
	le := binary.LittleEndian
	return le.Uint16(at(head, 1080, 2)) == 0xef53 && le.Uint32(at(head, 1048, 4)) <= 6 && le.Uint32(at(head, 1100, 4)) <= 1 &&
		le.Uint32(at(head, 1028, 4)) > 0
}
