// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"
	"io"
	"slices"
	"sync"

	"github.com/stillpoint-go/protect/hooks/etcd"
)

// fake is a member in memory. Its streams are what store says.
type fake struct {
	mu     sync.Mutex
	state  etcd.State
	hash   func(revision int64) (*etcd.Hash, error)
	stream func(ctx context.Context) io.Reader
	err    error // of State
}

func (f *fake) State(ctx context.Context) (*etcd.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	s.Members = slices.Clone(s.Members)
	if f.err != nil {
		return nil, f.err
	}
	return &s, ctx.Err()
}

// set changes the state.
func (f *fake) set(change func(*etcd.State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
}

func (f *fake) Snapshot(ctx context.Context) (io.ReadCloser, error) {
	return io.NopCloser(f.stream(ctx)), ctx.Err()
}

func (f *fake) HashKV(ctx context.Context, revision int64) (*etcd.Hash, error) {
	h, err := f.hash(revision)
	if err != nil {
		return nil, err
	}
	return h, ctx.Err()
}

// newFake returns a healthy member whose store has a revision.
func newFake(revision int64) *fake {
	return &fake{
		state: etcd.State{
			Cluster: 0xc, Member: 0xa, ReadBy: 0xa, Leader: 0xa, Revision: revision, Version: "3.4.23",
			Term: 2, Index: 9, DBSize: 4 * pageSize, Members: []string{"m1"},
		},
		hash: func(int64) (*etcd.Hash, error) {
			return &etcd.Hash{Hash: 7, Revision: revision, CompactRevision: -1}, nil
		},
		stream: func(context.Context) io.Reader { return bytes.NewReader(sealed(db{last: revision}.bytes())) },
	}
}

// sealed adds the hash that ends a stream.
func sealed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(slices.Clone(b), sum[:]...)
}

const pageSize = 4096

// db is a database file with the buckets that are read of it.
type db struct {
	order            interface{ binary.ByteOrder } // nil: little endian
	last             int64                         // revision of the last key; 0 for none
	scheduled, ended int64                         // compactions
	branch           bool                          // the keys have a page above them
}

func (d db) bytes() []byte {
	if d.order == nil {
		d.order = binary.LittleEndian
	}
	b := make([]byte, 6*pageSize)
	d.metaPage(b, 0, 11)
	d.metaPage(b, 1, 10)
	d.header(b, 2, 0x10, 0) // freelist
	var keys [][2][]byte
	if d.last > 0 {
		keys = [][2][]byte{{revision(1), []byte("a")}, {revision(d.last), []byte("b")}}
	}
	d.leaf(b[5*pageSize:6*pageSize], 5, keys, 0)
	root := uint64(5)
	if d.branch {
		root = 4
		d.header(b, 4, 0x01, 1)
		e := b[4*pageSize+16:]
		d.order.PutUint32(e, 16)
		d.order.PutUint32(e[4:], 17)
		d.order.PutUint64(e[8:], 5)
		copy(e[16:], revision(1))
	}
	key := make([]byte, 16)
	d.order.PutUint64(key, root)
	var metas [][2][]byte
	if d.ended > 0 {
		metas = append(metas, [2][]byte{[]byte("finishedCompactRev"), revision(d.ended)})
	}
	if d.scheduled > 0 {
		metas = append(metas, [2][]byte{[]byte("scheduledCompactRev"), revision(d.scheduled)})
	}
	inline := make([]byte, 16+256)
	d.leaf(inline[16:], 0, metas, 0)
	d.leaf(b[3*pageSize:4*pageSize], 3, [][2][]byte{{[]byte("key"), key}, {[]byte("meta"), inline}}, 1)
	return b
}

func revision(n int64) []byte {
	b := make([]byte, 17)
	binary.BigEndian.PutUint64(b, uint64(n))
	b[8] = '_'
	return b
}

func (d db) header(b []byte, id uint64, flags, count uint16) {
	p := b[id*pageSize:]
	d.order.PutUint64(p, id)
	d.order.PutUint16(p[8:], flags)
	d.order.PutUint16(p[10:], count)
}

func (d db) metaPage(b []byte, id, txid uint64) {
	d.header(b, id, 0x04, 0)
	m := b[id*pageSize+16:]
	d.order.PutUint32(m, 0xED0CDAED)
	d.order.PutUint32(m[4:], 2)
	d.order.PutUint32(m[8:], pageSize)
	d.order.PutUint64(m[16:], 3) // the root bucket
	d.order.PutUint64(m[32:], 2) // the freelist
	d.order.PutUint64(m[40:], 6)
	d.order.PutUint64(m[48:], txid)
	sum := fnv.New64a()
	sum.Write(m[:56])
	d.order.PutUint64(m[56:], sum.Sum64())
}

// leaf fills a page, or what is inside a bucket.
func (d db) leaf(p []byte, id uint64, elements [][2][]byte, flags uint32) {
	d.order.PutUint64(p, id)
	d.order.PutUint16(p[8:], 0x02)
	d.order.PutUint16(p[10:], uint16(len(elements)))
	at := 16 + 16*len(elements)
	for i, e := range elements {
		h := p[16+16*i:]
		d.order.PutUint32(h, flags)
		d.order.PutUint32(h[4:], uint32(at-16-16*i))
		d.order.PutUint32(h[8:], uint32(len(e[0])))
		d.order.PutUint32(h[12:], uint32(len(e[1])))
		at += copy(p[at:], e[0])
		at += copy(p[at:], e[1])
	}
}
