// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// While a session runs, the index tells others now and then what it has
// stored: what was stored before a crash is not stored again.
const (
	flushBytes = 256 << 20
	flushEvery = time.Minute
)

// flushState says how far the index of a session has come. Chunks are numbered
// in the order in which they were claimed.
type flushState struct {
	claimed int64                  // chunks so far
	flying  map[ondisk.ID]int64    // claimed chunks that are in no pack yet
	unknown map[*openPack]struct{} // packs that are in no segment yet
	bytes   int64                  // in packs since the last flush
}

// flusher stores index segments from time to time.
type flusher struct {
	flushBytes int64         // after so many bytes
	told       bool          // the index may list packs of the session
	segments   uint32        // stored
	want       chan struct{} // a token asks for a flush
	quit       chan struct{}
	stop       sync.Once
	running    sync.WaitGroup
}

// startFlusher starts the goroutine that flushes; finish and close end it.
// flushed is told that the index has the chunks up to a number.
func (p *packer) startFlusher(flushed func(low int64)) {
	p.running.Go(func() {
		t := time.NewTicker(flushEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-p.want:
			case <-p.quit:
				return
			case <-p.ctx.Done():
				return
			}
			low, err := p.flush()
			if err != nil {
				p.cancel(err)
				return
			}
			flushed(low)
		}
	})
}

func (p *packer) stopFlusher() {
	p.stop.Do(func() { close(p.quit) })
	p.running.Wait()
}

// wantFlush has the index flushed soon.
func (p *packer) wantFlush() {
	select {
	case p.want <- struct{}{}:
	default: // somebody has asked already
	}
}

// mark returns the number of the last chunk that was claimed.
func (p *packer) mark() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.claimed
}

// flush stores the packs that are open, and the index of all that are stored
// then. It returns the number up to which the index has all chunks. Only one
// runs at a time.
func (p *packer) flush() (low int64, err error) {
	p.mu.Lock()
	open := p.mu.open
	p.mu.open, p.mu.bytes = [2]*openPack{}, 0
	var packs []*openPack
	for b := range p.mu.unknown {
		packs = append(packs, b)
	}
	p.mu.Unlock()
	for _, b := range open {
		if b != nil {
			if err := p.store(b); err != nil {
				return 0, err
			}
		}
	}
	for _, b := range packs {
		select {
		case <-b.stored:
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
	}
	if err := p.storeIndex(packs); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range packs {
		delete(p.mu.unknown, b)
	}
	low = p.mu.claimed
	for _, n := range p.mu.flying {
		low = min(low, n-1)
	}
	for b := range p.mu.unknown {
		low = min(low, b.first-1)
	}
	return low, nil
}

// storeIndex stores index segments of the packs.
func (p *packer) storeIndex(packs []*openPack) error {
	rest := make([]index.Pack, len(packs))
	for i, b := range packs {
		rest[i] = b.info
	}
	for part := range bySegment(rest) {
		if err := p.storeSegment(part); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) storeSegment(packs []index.Pack) error {
	name := index.Name{ID: p.session, Part: p.segments}
	p.segments++
	plain := index.Encode(packs)
	obj := p.r.keys.SealObject(name.Key(), plain)
	err := p.r.store.Put(p.ctx, name.Key(), obj)
	p.told = p.told || !errors.Is(err, ErrFull) || errors.Is(err, store.ErrUnknown)
	if err != nil {
		return err
	}
	p.stored.Add(int64(len(obj)))
	p.r.local.objects.Put(name.Key(), obj)
	seg, err := index.Decode(name, plain)
	if err == nil {
		err = p.r.addSegment(p.ctx, seg)
	}
	if err != nil {
		p.r.log.Warn("the index of this process lacks what it has just stored", "error", err)
		return nil // so we remember its chunks ourselves
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pk := range packs {
		for _, e := range pk.Entries {
			delete(p.mu.seen, e.ID)
		}
	}
	return nil
}
