// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// leftover begins the names of files of statements that were under way. They
// come and go, and belong to nobody after a restore.
const leftover = "#sql"

// Where the fields of a page are, in bytes; all numbers are big-endian. They
// are the same in every version and format.
const (
	pageNumber = 4
	pageLSN    = 16
	pageSpace  = 34
	pageHead   = 38
)

// Digest identifies a set of tablespaces: by the path of each file in the data
// directory, such as "shop/orders.ibd", and the number that is in its header.
// Two servers that happen to have the same tables have other numbers, unless all
// of them were made in the same order.
func Digest(spaces map[string]uint32) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(spaces)) {
		fmt.Fprintf(h, "%s\x00%d\n", name, spaces[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// DigestNames identifies a set of tablespaces by the paths alone.
func DigestNames(spaces map[string]uint32) string {
	names := make(map[string]uint32, len(spaces))
	for name := range spaces {
		names[name] = 0
	}
	return Digest(names)
}

// Leftover says whether a file belongs to a statement that was under way.
func Leftover(name string) bool { return strings.HasPrefix(filepath.Base(name), leftover) }

// Spaces returns the tablespaces in a data directory, as Digest wants them, and
// whether all of them have a number: the header of a new one may be in the redo
// log only.
func Spaces(ctx context.Context, dir string) (spaces map[string]uint32, numbered bool, err error) {
	spaces, numbered = make(map[string]uint32), true
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if !d.Type().IsRegular() || filepath.Ext(name) != ".ibd" || Leftover(name) {
			return nil
		}
		head, err := readHead(name, pageHead)
		if err != nil {
			return fmt.Errorf("tablespace %q: %w", name, err)
		}
		rel, err := filepath.Rel(dir, name)
		number := binary.BigEndian.Uint32(head[pageSpace:])
		spaces[filepath.ToSlash(rel)] = number
		numbered = numbered && number != 0
		return err
	})
	return spaces, numbered, err
}

func readHead(name string, size int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, size)
	_, err = io.ReadFull(f, head)
	return head, err
}

// Redo is what the header of MariaDB's redo log says, since 10.2.
type Redo struct {
	Creator    string
	Checkpoint uint64 // the newest
}

// The formats of the redo log, and how much of it the header is, in bytes.
const (
	redoFormat108   = 0x50687973 // "Phys", since 10.8
	redoFormat105   = 0x50485953 // "PHYS"
	redoFormatOld   = 1          // 10.2, and 103, 104
	redoEncrypted   = 1 << 31
	redoSector      = 512
	redoCheckpoint  = 64 // bytes of a checkpoint that its checksum is for, since 10.8
	redoHeaderBytes = 3 * 4096
)

// ReadRedo reads ib_logfile0 of MariaDB. A header without a checkpoint that is
// whole is an error.
func ReadRedo(name string) (*Redo, error) {
	b, err := readHead(name, redoHeaderBytes)
	if err != nil {
		return nil, err
	}
	r := &Redo{Creator: strings.TrimRight(string(b[16:48]), "\x00")}
	found := false
	format := binary.BigEndian.Uint32(b) &^ redoEncrypted
	for _, at := range []int{4096, 8192, redoSector, 3 * redoSector} {
		var lsn uint64
		switch modern := at >= 4096; {
		case modern && format == redoFormat108:
			lsn = binary.BigEndian.Uint64(b[at:])
			if !intact(b[at : at+redoCheckpoint]) {
				continue
			}
		case !modern && (format == redoFormat105 || format >= redoFormatOld && format <= 104):
			lsn = binary.BigEndian.Uint64(b[at+8:])
			if !intact(b[at : at+redoSector]) {
				continue
			}
		default:
			continue
		}
		found, r.Checkpoint = true, max(r.Checkpoint, lsn)
	}
	if !found {
		return nil, errors.New("its header has no checkpoint that is whole")
	}
	return r, nil
}

// intact looks at the checksum at the end of b.
func intact(b []byte) bool {
	n := len(b) - 4
	return crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)) == binary.BigEndian.Uint32(b[n:])
}

// Pages is what a look at all data files found.
type Pages struct {
	Newest uint64 // the newest change that any page knows
	In     string // the file of that page
	Count  int64
}

// ScanPages looks at every page of the data files below the directories. InnoDB
// writes a page only after its redo log up to that change, so that files with a
// newer page than the log has were not cut together with it.
func ScanPages(ctx context.Context, size int64, dirs ...string) (*Pages, error) {
	p := &pageScan{ctx: ctx, page: make([]byte, size), found: new(Pages)}
	for _, dir := range dirs {
		if err := filepath.WalkDir(dir, p.visit); err != nil {
			return nil, err
		}
	}
	return p.found, nil
}

type pageScan struct {
	ctx   context.Context //nolint:containedctx // lives as long as the walk
	page  []byte
	found *Pages
}

// isData says whether a file has pages that the redo log is for: tablespaces,
// the system tablespace, undo; not those of temporary tables.
func isData(name string) bool {
	base := filepath.Base(name)
	return filepath.Ext(base) == ".ibd" || filepath.Ext(base) == ".ibu" ||
		strings.HasPrefix(base, "ibdata") || strings.HasPrefix(base, "undo")
}

func (p *pageScan) visit(name string, d fs.DirEntry, err error) error {
	if err := errors.Join(err, p.ctx.Err()); err != nil {
		return err
	}
	if !d.Type().IsRegular() || !isData(name) {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for n := uint32(0); ; n++ {
		if _, err := io.ReadFull(f, p.page); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // half a page at the end is for the recovery to judge
		} else if err != nil {
			return err
		}
		lsn := binary.BigEndian.Uint64(p.page[pageLSN:])
		// Pages of ROW_FORMAT=COMPRESSED are smaller, and found by their number
		// only where it fits: those in between are not looked at.
		if lsn == 0 || binary.BigEndian.Uint32(p.page[pageNumber:]) != n {
			continue
		}
		p.found.Count++
		if lsn > p.found.Newest {
			p.found.Newest, p.found.In = lsn, name
		}
	}
}
