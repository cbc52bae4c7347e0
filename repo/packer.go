// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
)

const (
	packTarget = 32 << 20 // a pack is stored before it exceeds this size
	uploads    = 2        // packs on their way to the store
)

// packer turns chunks into packs of one session. Data and metadata go to packs
// of their own, so that listings can be read without data.
type packer struct {
	r       *Repository
	session [16]byte
	usable  func(ondisk.ID) bool // whether the repository has a chunk that we may refer to
	key     seal.DataKey
	chunks  *seal.Chunks

	ctx    context.Context //nolint:containedctx // that of the session, which owns the goroutines below
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	helper chan struct{} // a token for each goroutine that seals
	upload chan struct{} // a token for each goroutine that stores a pack

	mu struct {
		sync.Mutex
		seen map[ondisk.ID]struct{} // chunks of this session that our index does not have yet
		open [2]*openPack           // data, metadata
		next uint32                 // number of the next pack
		free [][]byte               // buffers of packs
		flushState
	}
	fresh, stored, count, packs atomic.Int64
	flusher
}

// openPack is a pack that no index segment knows yet.
type openPack struct {
	*pack.Builder
	first  int64 // the lowest number of its chunks
	stored chan struct{}
	info   index.Pack // once it is stored
}

func newPacker(ctx context.Context, r *Repository, session [16]byte, usable func(ondisk.ID) bool) *packer {
	p := &packer{
		r: r, session: session, usable: usable, key: r.keys.NewDataKey(),
		helper: make(chan struct{}, runtime.GOMAXPROCS(0)),
		upload: make(chan struct{}, uploads),
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	var err error
	if p.chunks, err = r.keys.Chunks(p.key); err != nil {
		p.cancel(err)
	}
	p.mu.seen = map[ondisk.ID]struct{}{}
	p.mu.flying, p.mu.unknown = map[ondisk.ID]int64{}, map[*openPack]struct{}{}
	p.flushBytes, p.want, p.quit = flushBytes, make(chan struct{}, 1), make(chan struct{})
	return p
}

// put stores a chunk unless the repository has it, and returns its id. The
// work is done by a helper goroutine if one is free, which then gets a copy,
// and by the caller otherwise: so memory is bounded, and nobody waits while
// there is work to do. Errors of helpers end the session.
func (p *packer) put(kind ondisk.Kind, data []byte) (ondisk.ID, error) {
	if err := context.Cause(p.ctx); err != nil {
		return ondisk.ID{}, err
	}
	id := p.r.keys.ChunkID(kind, data)
	if !p.claim(id) {
		return id, nil
	}
	p.fresh.Add(int64(len(data)))
	p.count.Add(1)
	bufs := p.r.buffers.Get().(*buffers) // our own pool
	select {
	case p.helper <- struct{}{}:
		bufs.plain = append(bufs.plain[:0], data...)
		p.wg.Go(func() {
			defer func() { <-p.helper }()
			if err := p.add(id, kind, bufs.plain, bufs); err != nil {
				p.cancel(err)
			}
			p.r.buffers.Put(bufs)
		})
		return id, nil
	default:
		defer p.r.buffers.Put(bufs)
		return id, p.add(id, kind, data, bufs)
	}
}

// buffers are the memory that one chunk needs on its way into a pack.
type buffers struct{ plain, body, sealed, check []byte }

// claim reports whether the chunk must be stored, and by the caller.
func (p *packer) claim(id ondisk.ID) bool {
	p.mu.Lock()
	_, seen := p.mu.seen[id]
	if !seen {
		p.mu.seen[id] = struct{}{}
		p.mu.claimed++
		p.mu.flying[id] = p.mu.claimed
	}
	p.mu.Unlock()
	if seen {
		return false
	}
	if !p.usable(id) {
		return true
	}
	p.disclaim(id) // the index remembers it
	return false
}

// disclaim takes back the claim of a chunk that the caller does not store.
func (p *packer) disclaim(id ondisk.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.flying, id)
	delete(p.mu.seen, id)
}

// add compresses, seals and verifies a chunk and appends it to a pack.
func (p *packer) add(id ondisk.ID, kind ondisk.Kind, plain []byte, bufs *buffers) error {
	body, codec := p.r.codec.Compress(&bufs.body, plain)
	e := pack.Entry{ID: id, Kind: kind, Codec: codec, Plain: uint32(len(plain))} // below MaxChunk
	sealed := p.chunks.Seal(bufs.sealed[:0], body, e.AAD())
	bufs.sealed = sealed

	// Verify before upload: a wrong bit of this machine must not get stored.
	opened, err := p.chunks.Open(bufs.body[:0], sealed, e.AAD())
	if err == nil {
		bufs.body = opened
	}
	if err == nil && codec != ondisk.Raw {
		opened, err = p.r.codec.Decompress(bufs.check, opened, codec, len(plain))
		bufs.check = opened
	}
	if err != nil || !bytes.Equal(opened, plain) {
		return faulty(err)
	}
	return p.append(e, sealed)
}

func faulty(err error) error {
	return fmt.Errorf("chunk does not decode to what was encoded; this machine's memory or processor is faulty: %w", errors.Join(ErrCorrupt, err))
}

func (p *packer) append(e pack.Entry, sealed []byte) error {
	slot := 0
	if e.Kind.Meta() {
		slot = 1
	}
	p.mu.Lock()
	b := p.mu.open[slot]
	var full *openPack
	if b != nil && (b.Len()+len(sealed)+pack.EntrySize > packTarget && len(b.Entries()) > 0 || len(b.Entries()) == ondisk.MaxPackEntries) {
		full, b = b, nil
	}
	if b == nil {
		b = &openPack{Builder: pack.NewBuilder(p.buffer(), p.key, packTarget), first: p.mu.claimed, stored: make(chan struct{})}
		p.mu.open[slot] = b
		p.mu.unknown[b] = struct{}{}
	}
	b.Add(e, sealed)
	b.first = min(b.first, p.mu.flying[e.ID])
	delete(p.mu.flying, e.ID)
	p.mu.bytes += int64(len(sealed))
	due := p.mu.bytes >= p.flushBytes
	p.mu.Unlock()
	if due {
		p.wantFlush()
	}
	if full != nil {
		return p.store(full)
	}
	return nil
}

// buffer returns memory for a pack. The caller holds the lock.
func (p *packer) buffer() []byte {
	if n := len(p.mu.free); n > 0 {
		b := p.mu.free[n-1]
		p.mu.free = p.mu.free[:n-1]
		return b
	}
	return nil
}

// store starts to upload a pack, once fewer than the allowed number of others
// are on their way.
func (p *packer) store(b *openPack) error {
	select {
	case p.upload <- struct{}{}:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	p.mu.Lock()
	ref := ondisk.PackRef{Session: p.session, Seq: p.mu.next}
	p.mu.next++
	p.mu.Unlock()
	p.wg.Go(func() {
		defer func() { <-p.upload }()
		data := b.Finish(p.r.keys, ref.Key())
		if err := p.r.store.Put(p.ctx, ref.Key(), data); err != nil {
			p.cancel(err)
			return
		}
		p.stored.Add(int64(len(data)))
		p.packs.Add(1)
		p.mu.Lock()
		b.info = index.Pack{PackInfo: index.PackInfo{Ref: ref, Key: p.key, Size: uint32(len(data))}, Entries: b.Entries()} // below MaxPack
		p.mu.free = append(p.mu.free, data)
		p.mu.Unlock()
		close(b.stored)
	})
	return nil
}

// unindexed returns the packs that are stored, and not certain to be in the
// index. Nothing runs any more.
func (p *packer) unindexed() []ondisk.PackRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	var refs []ondisk.PackRef
	for b := range p.mu.unknown {
		select {
		case <-b.stored:
			refs = append(refs, b.info.Ref)
		default: // open, or what there was no room for
		}
	}
	return refs
}

// finish stores the packs that are still open, and then the index segments of
// the session. Nobody puts chunks any more.
func (p *packer) finish() error {
	p.stopFlusher()
	p.wg.Wait() // helpers append to the open packs
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	_, err := p.flush()
	return err
}

// close ends what is still running.
func (p *packer) close() {
	p.cancel(errors.New("repo: the session is over"))
	p.stopFlusher()
	p.wg.Wait()
}
