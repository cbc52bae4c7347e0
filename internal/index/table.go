// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

const (
	blockSize    = 4096
	packsInBlock = (blockSize - tagSize) / packSize
	recsInBlock  = (blockSize - tagSize) / recSize
	// filterBlocks is how many blocks of records share a filter. So what is
	// needed to make filters is bounded, and they are large enough to be good.
	filterBlocks = 1620 // 131220 records
	// recentPacks is how many packs a table in a file remembers, of about 90
	// bytes each: there may be some twenty tables.
	recentPacks = 64
)

// Table is a sorted union of segments. It is immutable and safe for concurrent
// use.
type Table struct {
	file io.ReaderAt // nil: all blocks are in mem
	mem  []byte
	auth *Auth // nil: as in memory
	name [32]byte

	packs, recs int
	covers      []Name
	supersedes  []Name
	fences      []byte // the first 8 bytes of the first record of each block
	filters     []filter
	recent      []atomic.Pointer[recentPack]
	buffers     sync.Pool // of *[blockSize]byte
}

type recentPack struct {
	n    int
	info PackInfo
}

// The tail of a table is
//
//	fences | filters | covered names | superseded names |
//	records (8) | length of the filters (8) | packs (4) | covered (4) | superseded (4) |
//	tag (16) | magic and version (8)
const (
	tableMagic  = "PROTTBL\x01"
	countsSize  = 8 + 8 + 4 + 4 + 4
	trailerSize = countsSize + tagSize + len(tableMagic)
)

func blocks(n, each int) int { return (n + each - 1) / each }

// OpenTable opens a table file of size bytes that was written under this name
// with this Auth. It checks the tail. The file must stay open as long as the
// table is used.
func OpenTable(file io.ReaderAt, size int64, a *Auth, name string) (*Table, error) {
	t := &Table{file: file, auth: a, name: nameHash(name)}
	bad := func(what string) (*Table, error) { return nil, fmt.Errorf("%w: %s", ErrDamaged, what) }
	var trailer [trailerSize]byte
	if size < int64(len(trailer)) {
		return bad("size")
	}
	if _, err := file.ReadAt(trailer[:], size-int64(len(trailer))); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if string(trailer[countsSize+tagSize:]) != tableMagic {
		return bad("magic or version")
	}
	le := binary.LittleEndian
	recs, filters := le.Uint64(trailer[:]), le.Uint64(trailer[8:])
	if recs > uint64(size)/recSize || filters > uint64(size) {
		return bad("counts")
	}
	t.recs, t.packs = int(recs), int(le.Uint32(trailer[16:]))
	covers, supersedes := int64(le.Uint32(trailer[20:])), int64(le.Uint32(trailer[24:]))
	body := int64(t.packBlocks()+t.recBlocks()) * blockSize
	tail := int64(t.recBlocks())*8 + int64(filters) + (covers+supersedes)*nameSize + int64(len(trailer))
	if body+tail != size {
		return bad("length")
	}
	buf := make([]byte, tail)
	if _, err := file.ReadAt(buf, body); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	signed := buf[:len(buf)-tagSize-len(tableMagic)]
	tag := a.tag(t.name, tailNumber, signed)
	if subtle.ConstantTimeCompare(tag[:], buf[len(signed):][:tagSize]) != 1 {
		return bad("the tail does not authenticate")
	}
	if !t.parseTail(signed[:len(signed)-countsSize], int(filters), int(covers)) {
		return bad("tail")
	}
	t.recent = make([]atomic.Pointer[recentPack], recentPacks)
	t.buffers.New = func() any { return new([blockSize]byte) }
	return t, nil
}

func (t *Table) parseTail(b []byte, filters, covers int) bool {
	n := t.recBlocks() * 8
	t.fences, b = b[:n:n], b[n:]
	for i := 8; i < n; i += 8 {
		if bytes.Compare(t.fences[i-8:i], t.fences[i:i+8]) > 0 {
			return false
		}
	}
	rest := b[:filters]
	for range blocks(t.recBlocks(), filterBlocks) {
		f, after, ok := parseFilter(rest)
		if !ok {
			return false
		}
		t.filters, rest = append(t.filters, f), after
	}
	var ok1, ok2 bool
	t.covers, ok1 = parseNames(b[filters:][:covers*nameSize])
	t.supersedes, ok2 = parseNames(b[filters+covers*nameSize:])
	return len(rest) == 0 && ok1 && ok2
}

func nameHash(name string) [32]byte { return blake3.Sum256([]byte(name)) }

func (t *Table) packBlocks() int { return blocks(t.packs, packsInBlock) }
func (t *Table) recBlocks() int  { return blocks(t.recs, recsInBlock) }

// Len returns the number of records; a chunk that is in several packs counts
// for each.
func (t *Table) Len() int { return t.recs }

// Covers returns the names of the segments of which the table was made.
func (t *Table) Covers() []Name { return t.covers }

// Supersedes returns the names of the segments that those of the table name as
// superseded.
func (t *Table) Supersedes() []Name { return t.supersedes }

// InMemory reports whether the table takes memory for its records.
func (t *Table) InMemory() bool { return t.file == nil }

// block returns the n-th block of the table, in buf if it has to be read.
func (t *Table) block(n int, buf *[blockSize]byte) ([]byte, error) {
	if t.file == nil {
		return t.mem[n*blockSize:][:blockSize], nil
	}
	if _, err := t.file.ReadAt(buf[:], int64(n)*blockSize); err != nil {
		return nil, fmt.Errorf("%w: block %d: %w", ErrDamaged, n, err)
	}
	tag := t.auth.tag(t.name, uint64(n), buf[:blockSize-tagSize]) // not negative
	if subtle.ConstantTimeCompare(tag[:], buf[blockSize-tagSize:]) != 1 {
		return nil, fmt.Errorf("%w: block %d does not authenticate", ErrDamaged, n)
	}
	return buf[:], nil
}

// recsOf returns how many records the n-th block of them has.
func (t *Table) recsOf(n int) int { return min(recsInBlock, t.recs-n*recsInBlock) }

// lookup calls fn with the records of the chunk, and where they are in the
// order of all.
func (t *Table) lookup(id ondisk.ID, fn func(n int, rec []byte) error) error {
	first := sort.Search(t.recBlocks(), func(i int) bool { return bytes.Compare(t.fences[i*8:][:8], id[:8]) >= 0 })
	var buf *[blockSize]byte
	for b := max(0, first-1); b < t.recBlocks() && bytes.Compare(t.fences[b*8:][:8], id[:8]) <= 0; b++ {
		if !t.filters[b/filterBlocks].has(filterKey(id[:])) {
			continue
		}
		if t.file != nil && buf == nil {
			buf = t.buffers.Get().(*[blockSize]byte) // our own pool
			defer t.buffers.Put(buf)
		}
		block, err := t.block(t.packBlocks()+b, buf)
		if err != nil {
			return err
		}
		recs := records(block[:t.recsOf(b)*recSize])
		i := sort.Search(recs.Len(), func(i int) bool { return bytes.Compare(recs.at(i)[:32], id[:]) >= 0 })
		for ; i < recs.Len() && bytes.Equal(recs.at(i)[:32], id[:]); i++ {
			if err := fn(b*recsInBlock+i, recs.at(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// filterKey is a part of the id other than that of the fences. Ids are hashes.
func filterKey(id []byte) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

// pack returns the n-th pack.
func (t *Table) pack(n int) (*PackInfo, error) {
	if n >= t.packs {
		return nil, fmt.Errorf("%w: pack %d", ErrDamaged, n)
	}
	if t.file == nil {
		info := parsePack(t.mem[n/packsInBlock*blockSize+n%packsInBlock*packSize:])
		return &info, nil
	}
	slot := &t.recent[n%len(t.recent)]
	if p := slot.Load(); p != nil && p.n == n {
		return &p.info, nil
	}
	buf := t.buffers.Get().(*[blockSize]byte) // our own pool
	defer t.buffers.Put(buf)
	block, err := t.block(n/packsInBlock, buf)
	if err != nil {
		return nil, err
	}
	p := &recentPack{n: n, info: parsePack(block[n%packsInBlock*packSize:])}
	slot.Store(p)
	return &p.info, nil
}
