// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// errStop ends an iteration that nobody wants to continue.
var errStop = errors.New("stop")

// NewTable merges runs into a table in memory.
func NewTable(runs ...Run) (*Table, error) {
	var size int
	for _, r := range runs {
		size += r.Len()*recSize + r.packCount()*packSize
	}
	var buf bytes.Buffer
	buf.Grow(size + size/64 + 2*blockSize)
	b, err := build(&buf, nil, [32]byte{}, runs)
	if err != nil {
		return nil, err
	}
	t := b.t
	t.mem = buf.Bytes()
	t.fences, t.filters = b.fences, b.filters
	return t, nil
}

// WriteTable merges runs into the file of a table with this name, for
// OpenTable. It writes from front to end, and takes memory for a block of each
// run, for the tail, 12 bytes a pack, and about 6 MB.
func WriteTable(w io.Writer, a *Auth, name string, runs ...Run) error {
	b, err := build(w, a, nameHash(name), runs)
	if err != nil {
		return err
	}
	_, err = w.Write(b.tail())
	return err
}

// builder writes the blocks of a table and collects its tail.
type builder struct {
	w    io.Writer
	auth *Auth // nil: no tags
	t    *Table

	block   [blockSize]byte
	fill    int
	written uint64 // blocks

	fences  []byte
	filters []filter
	keys    []uint64 // for the next filter
}

func build(w io.Writer, a *Auth, name [32]byte, runs []Run) (*builder, error) {
	b := &builder{w: w, auth: a, t: &Table{name: name}}
	for _, r := range runs {
		covers, supersedes := r.names()
		b.t.covers, b.t.supersedes = union(b.t.covers, covers), union(b.t.supersedes, supersedes)
	}
	s, err := NewScan(runs...)
	if err != nil {
		return nil, err
	}
	b.t.packs = len(s.origin)
	var buf []byte
	for p, err := range s.Packs() {
		if err != nil {
			return nil, err
		}
		buf = appendPack(buf[:0], p)
		if err := b.add(buf, packsInBlock); err != nil {
			return nil, err
		}
	}
	if err := b.flush(); err != nil {
		return nil, err
	}
	for rec, err := range s.records() {
		if err != nil {
			return nil, err
		}
		if err := b.addRecord(rec); err != nil {
			return nil, err
		}
	}
	if len(b.keys) > 0 {
		b.filters = append(b.filters, newFilter(b.keys))
	}
	return b, b.flush()
}

func (b *builder) addRecord(rec []byte) error {
	if n := b.t.recs; n%recsInBlock == 0 {
		if n/recsInBlock%filterBlocks == 0 && n > 0 {
			b.filters = append(b.filters, newFilter(b.keys))
			b.keys = b.keys[:0]
		}
		b.fences = append(b.fences, rec[:8]...)
	}
	b.t.recs++
	if key := filterKey(rec); len(b.keys) == 0 || b.keys[len(b.keys)-1] != key {
		b.keys = append(b.keys, key)
	}
	return b.add(rec, recsInBlock)
}

// add puts an element into the block, which has room for so many of them.
func (b *builder) add(e []byte, each int) error {
	copy(b.block[b.fill:], e)
	if b.fill += len(e); b.fill == each*len(e) {
		return b.flush()
	}
	return nil
}

// flush writes a block that is not empty.
func (b *builder) flush() error {
	if b.fill == 0 {
		return nil
	}
	clear(b.block[b.fill:])
	if b.auth != nil {
		tag := b.auth.tag(b.t.name, b.written, b.block[:blockSize-tagSize])
		copy(b.block[blockSize-tagSize:], tag[:])
	}
	b.fill = 0
	b.written++
	_, err := b.w.Write(b.block[:])
	return err
}

// tail returns the end of the file.
func (b *builder) tail() []byte {
	le := binary.LittleEndian
	out := slices.Clone(b.fences)
	for i := range b.filters {
		out = b.filters[i].append(out)
	}
	filters := len(out) - len(b.fences)
	out = appendNames(out, b.t.covers)
	out = appendNames(out, b.t.supersedes)
	out = le.AppendUint64(out, uint64(b.t.recs))            // not negative
	out = le.AppendUint64(out, uint64(filters))             // not negative
	out = le.AppendUint32(out, uint32(b.t.packs))           // as in memory
	out = le.AppendUint32(out, uint32(len(b.t.covers)))     // few
	out = le.AppendUint32(out, uint32(len(b.t.supersedes))) // few
	tag := b.auth.tag(b.t.name, tailNumber, out)
	return append(append(out, tag[:]...), tableMagic...)
}

// ErrTooLarge reports that so many segments are superseded that their names do
// not fit into one.
var ErrTooLarge = errors.New("too many superseded segments")

// Merge merges runs into the plaintexts of segments of at most limit bytes,
// the parts of one merger, without the packs that drop wants gone. The chunks
// of each part sort before those of the next. The last part, and there is one
// even if nothing is left, says what is superseded; so it has to be stored
// last. At most two parts are in memory at a time.
func Merge(limit int, supersedes []Name, drop func(ondisk.PackRef) bool, runs ...Run) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		m := &cutter{limit: limit, supersedes: union(supersedes), used: map[uint32]struct{}{}}
		if Size(len(m.supersedes), 1, 1) > limit {
			yield(nil, ErrTooLarge)
			return
		}
		var err error
		if m.scan, err = NewScan(runs...); err == nil {
			err = m.run(drop, func(part []byte) bool { return yield(part, nil) })
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, err)
		}
	}
}

// cutter cuts merged records into parts.
type cutter struct {
	limit      int
	supersedes []Name
	scan       *Scan
	used       map[uint32]struct{} // packs of the part
	recs       []byte
}

func (c *cutter) run(drop func(ondisk.PackRef) bool, yield func([]byte) bool) error {
	var dropped []bool
	for p, err := range c.scan.Packs() {
		if err != nil {
			return err
		}
		dropped = append(dropped, drop != nil && drop(p.Ref))
	}
	for rec, err := range c.scan.records() {
		if err != nil {
			return err
		}
		p := binary.LittleEndian.Uint32(rec[32:])
		if dropped[p] {
			continue
		}
		packs := len(c.used)
		if _, ok := c.used[p]; !ok {
			packs++
		}
		if Size(len(c.supersedes), packs, len(c.recs)/recSize+1) > c.limit {
			part, err := c.part(nil)
			if err != nil {
				return err
			}
			if !yield(part) {
				return errStop
			}
		}
		c.used[p] = struct{}{}
		c.recs = append(c.recs, rec...)
	}
	part, err := c.part(c.supersedes)
	if err == nil && !yield(part) {
		err = errStop
	}
	return err
}

// part returns a segment of the records so far, and starts anew.
func (c *cutter) part(supersedes []Name) ([]byte, error) {
	numbers := slices.Sorted(maps.Keys(c.used))
	infos := make([]PackInfo, 0, len(numbers))
	index := make(map[uint32]uint32, len(numbers))
	for i, n := range numbers {
		p, err := c.scan.pack(n)
		if err != nil {
			return nil, err
		}
		infos, index[n] = append(infos, p), uint32(i) // below the limit
	}
	for i := 0; i < len(c.recs); i += recSize {
		p := c.recs[i+32 : i+36]
		binary.LittleEndian.PutUint32(p, index[binary.LittleEndian.Uint32(p)])
	}
	out := assemble(supersedes, infos, c.recs)
	clear(c.used)
	c.recs = c.recs[:0]
	return out, nil
}
