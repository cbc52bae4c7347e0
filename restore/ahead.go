// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/repo"
)

const (
	// Files up to this size share chunks with their neighbours.
	smallFile = 128 << 10
	// sharedChunk is the content of small files after which the next one is
	// likely to be in another chunk.
	sharedChunk = 256 << 10
	// aheadChunks is how many chunks are read ahead at once.
	aheadChunks = 8
)

// readahead brings the chunks of small files into the repository's cache
// before the workers need them. All workers together want the same one or two
// chunks at a time, so without it a slow store would be asked for one after
// the other.
type readahead struct {
	g     *errgroup.Group
	src   source
	slots chan struct{}
	since int64 // bytes of small files since the last one that was read
}

func newReadahead(g *errgroup.Group, src source) readahead {
	return readahead{g: g, src: src, slots: make(chan struct{}, aheadChunks), since: sharedChunk}
}

// file is told about each file in the order of the walk. It waits while enough
// is on its way: should the walk get further ahead, chunks in between would be
// left to the workers.
func (a *readahead) file(ctx context.Context, e *repo.Entry) {
	if e.Size == 0 || e.Size > smallFile {
		return
	}
	if a.since += e.Size; a.since < sharedChunk {
		return
	}
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	a.since = 0
	a.g.Go(func() error {
		defer func() { <-a.slots }()
		for s, err := range a.src.Slices(ctx, e) {
			if err != nil || ctx.Err() != nil {
				return nil // the worker meets it again
			}
			if !s.Hole {
				_, _ = a.src.ReadSlice(ctx, s) // the worker meets an error again
				return nil
			}
		}
		return nil
	})
}
