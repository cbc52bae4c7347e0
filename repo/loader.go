// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// loader reads chunks, verifies them, and keeps the most recently used ones.
// Several callers that want the same chunk at once share one read.
type loader struct {
	r      *Repository
	limit  int64
	mu     sync.Mutex
	chunks map[chunkKey]*cached
	recent *list.List // of *cached, the most recently used first
	size   int64
}

// chunkKey has the kind, since no chunk may be read as one of another kind.
type chunkKey struct {
	id   ondisk.ID
	kind ondisk.Kind
}

// cached is a chunk that is in memory or on its way there.
type cached struct {
	chunkKey
	ready chan struct{} // closed when data or err is set
	data  []byte
	err   error
	place *list.Element // nil until data is there
}

func newLoader(r *Repository, limit int64) *loader {
	return &loader{r: r, limit: limit, chunks: map[chunkKey]*cached{}, recent: list.New()}
}

// node returns a reader of tree nodes of one kind.
func (l *loader) node(kind ondisk.Kind) tree.Get {
	return func(ctx context.Context, id ondisk.ID) ([]byte, error) { return l.get(ctx, id, kind) }
}

// get returns the plaintext of a chunk, which must not be modified.
func (l *loader) get(ctx context.Context, id ondisk.ID, kind ondisk.Kind) ([]byte, error) {
	for {
		c, mine := l.claim(chunkKey{id, kind})
		if mine {
			l.load(ctx, c)
			return c.data, c.err
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// A failure may have been that of the other caller's context.
		if c.err == nil || !errors.Is(c.err, context.Canceled) && !errors.Is(c.err, context.DeadlineExceeded) {
			return c.data, c.err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// claim returns the chunk's place in the cache, and whether the caller is the
// one to load it.
func (l *loader) claim(key chunkKey) (c *cached, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.chunks[key]; c != nil {
		if c.place != nil {
			l.recent.MoveToFront(c.place)
		}
		return c, false
	}
	c = &cached{chunkKey: key, ready: make(chan struct{})}
	l.chunks[key] = c
	return c, true
}

func (l *loader) load(ctx context.Context, c *cached) {
	defer close(c.ready)
	c.data, c.err = l.r.readAny(ctx, c.id, c.kind)
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.err != nil {
		delete(l.chunks, c.chunkKey)
		return
	}
	c.place = l.recent.PushFront(c)
	l.size += int64(len(c.data))
	for l.size > l.limit && l.recent.Len() > 1 {
		old := l.recent.Remove(l.recent.Back()).(*cached) // our own list
		l.size -= int64(len(old.data))
		delete(l.chunks, old.chunkKey)
	}
}

// errContent reports a chunk that does not decode to what its id says.
var errContent = errors.New("content does not match the chunk id")

// open verifies and decodes a sealed chunk.
func (r *Repository) open(at index.Location, sealed []byte) ([]byte, error) {
	_, plain, err := r.unseal(at, sealed)
	return plain, err
}

// unseal is open, and returns the body as well: the plaintext as it is stored,
// compressed or not.
func (r *Repository) unseal(at index.Location, sealed []byte) (body, plain []byte, err error) {
	e := at.Entry
	chunks, err := r.keys.Chunks(at.Pack.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errContent, err)
	}
	if body, err = chunks.Open(nil, sealed, e.AAD()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errContent, err)
	}
	if plain, err = r.codec.Decompress(nil, body, e.Codec, int(e.Plain)); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errContent, err)
	}
	// Whoever holds the key could still have sealed other content under the id.
	if r.keys.ChunkID(e.Kind, plain) != e.ID {
		return nil, nil, errContent
	}
	return body, plain, nil
}
