// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// The format of a bbolt database, version 2, as its page.go, meta.go and
// bucket.go have it. Only what leads to the last key of a bucket is read. The
// order of bytes is that of the server's machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	pageHeader  = 16
	metaSize    = 64
	element     = 16 // of a branch or a leaf
	bucketSize  = 16

	flagBranch = 0x01
	flagLeaf   = 0x02

	maxPageSize = 64 << 10
	maxDepth    = 64
	maxPages    = 1 << 16 // of one node
)

// database is what is read of a database of etcd.
type database struct {
	lastKey   int64 // the newest revision in the bucket of keys
	compacted int64 // the newest revision that is compacted, or is to be
}

// revision is what the server begins with.
func (d *database) revision() int64 { return max(1, d.lastKey, d.compacted) }

// boltReader reads a database file.
type boltReader struct {
	r        io.ReaderAt
	size     int64
	order    binary.ByteOrder
	pageSize int64
	root     uint64
	txid     uint64
}

// readDatabase reads a database of size bytes. What it does not understand is
// inconsistent.
func readDatabase(r io.ReaderAt, size int64) (*database, error) {
	b := &boltReader{r: r, size: size}
	if err := b.open(); err != nil {
		return nil, err
	}
	d := new(database)
	keys, err := b.bucket("key")
	if err != nil {
		return nil, err
	}
	last, _, err := b.last(keys)
	if err != nil {
		return nil, err
	}
	d.lastKey = revisionOf(last)
	meta, err := b.bucket("meta")
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"scheduledCompactRev", "finishedCompactRev"} {
		_, value, err := b.find(meta, []byte(name))
		if err != nil {
			return nil, err
		}
		d.compacted = max(d.compacted, revisionOf(value))
	}
	return d, nil
}

// revisionOf reads a revision as etcd stores it: always big endian.
func revisionOf(p []byte) int64 {
	if len(p) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(p))
}

// open finds the newest of the two meta pages that is whole.
func (b *boltReader) open() error {
	for size := int64(512); size <= maxPageSize; size *= 2 {
		for _, at := range []int64{0, size} {
			b.meta(at, size)
		}
	}
	if b.pageSize == 0 {
		return inconsistent("this is no database, or its first pages are damaged")
	}
	return nil
}

// meta takes the meta page at an offset, if it is one of this page size.
func (b *boltReader) meta(at, size int64) {
	p := make([]byte, metaSize)
	if _, err := b.r.ReadAt(p, at+pageHeader); err != nil {
		return
	}
	sum := fnv.New64a()
	sum.Write(p[:metaSize-8])
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(p) != boltMagic || order.Uint32(p[4:]) != boltVersion || int64(order.Uint32(p[8:])) != size || order.Uint64(p[56:]) != sum.Sum64() {
			continue
		}
		if txid := order.Uint64(p[48:]); b.pageSize == 0 || txid > b.txid {
			b.order, b.pageSize, b.root, b.txid = order, size, order.Uint64(p[16:]), txid
		}
	}
}

// node is a page, or what is inside a bucket that has none.
type node struct {
	data  []byte
	flags uint16
	count int
}

func (b *boltReader) node(data []byte) (*node, error) {
	n := &node{data: data, flags: b.order.Uint16(data[8:]), count: int(b.order.Uint16(data[10:]))}
	if n.flags != flagBranch && n.flags != flagLeaf || pageHeader+n.count*element > len(data) {
		return nil, inconsistent("a page of the database is damaged")
	}
	return n, nil
}

func (b *boltReader) page(id uint64) (*node, error) {
	at := int64(id) * b.pageSize
	if id > uint64(b.size/b.pageSize) || at+b.pageSize > b.size {
		return nil, inconsistent("page %d is beyond the end of the database", id)
	}
	data := make([]byte, b.pageSize)
	if _, err := b.r.ReadAt(data, at); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	over := int64(b.order.Uint32(data[12:]))
	if b.order.Uint64(data) != id || over > maxPages || at+(over+1)*b.pageSize > b.size {
		return nil, inconsistent("page %d is damaged", id)
	}
	if over > 0 {
		data = make([]byte, (over+1)*b.pageSize)
		if _, err := b.r.ReadAt(data, at); err != nil {
			return nil, fmt.Errorf("read page %d: %w", id, err)
		}
	}
	return b.node(data)
}

// entry returns the key of an element, and its value or the page below it.
func (b *boltReader) entry(n *node, i int) (key, value []byte, below uint64, err error) {
	at := pageHeader + i*element
	e := n.data[at:]
	pos, ksize, vsize := uint64(b.order.Uint32(e[4:])), uint64(b.order.Uint32(e[8:])), uint64(b.order.Uint32(e[12:]))
	if n.flags == flagBranch {
		pos, ksize, vsize, below = uint64(b.order.Uint32(e)), uint64(b.order.Uint32(e[4:])), 0, b.order.Uint64(e[8:])
	}
	if uint64(at)+pos+ksize+vsize > uint64(len(n.data)) {
		return nil, nil, 0, inconsistent("an element of the database is damaged")
	}
	e = e[pos:]
	return e[:ksize], e[ksize : ksize+vsize], below, nil
}

// bucket returns the root of a bucket, which must exist.
func (b *boltReader) bucket(name string) (*node, error) {
	top, err := b.page(b.root)
	if err != nil {
		return nil, err
	}
	key, value, err := b.find(top, []byte(name))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key, []byte(name)) || len(value) < bucketSize {
		return nil, inconsistent("the database has no bucket %q: it is not of etcd", name)
	}
	if root := b.order.Uint64(value); root != 0 {
		return b.page(root)
	}
	if len(value) < bucketSize+pageHeader {
		return nil, inconsistent("bucket %q is damaged", name)
	}
	return b.node(value[bucketSize:])
}

// find returns the element with a key, or nothing.
func (b *boltReader) find(n *node, want []byte) (key, value []byte, err error) {
	for range maxDepth {
		var below uint64
		for i := range n.count {
			k, v, page, err := b.entry(n, i)
			if err != nil {
				return nil, nil, err
			}
			switch c := bytes.Compare(k, want); {
			case n.flags == flagLeaf && c == 0:
				return k, v, nil
			case n.flags == flagBranch && (c <= 0 || i == 0):
				below = page
			}
		}
		if n.flags == flagLeaf {
			return nil, nil, nil
		}
		if n, err = b.page(below); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, inconsistent("the database is deeper than any")
}

// last returns the last element, or nothing.
func (b *boltReader) last(n *node) (key, value []byte, err error) {
	for range maxDepth {
		if n.count == 0 {
			return nil, nil, nil
		}
		key, value, below, err := b.entry(n, n.count-1)
		if err != nil || n.flags == flagLeaf {
			return key, value, err
		}
		if n, err = b.page(below); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, inconsistent("the database is deeper than any")
}
