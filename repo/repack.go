// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/store"
)

// Chunks that lie close to each other in a pack are read at once.
const (
	readGap = 64 << 10 // bytes that are read and not needed
	maxRead = 8 << 20  // bytes of one read, unless one chunk is larger
	copiers = 3        // reads at once
)

// copyOut stores chunks once more, in packs and index segments of a session of
// its own, which commits nothing. They keep their bodies, and are verified.
// Those that cannot be read are remembered and reported. The index is flushed on
// the way: what was copied before a crash is not copied again. If there is no
// room for the copies, none of them stay.
func (c *collector) copyOut(ctx context.Context, chunks []index.Location) (err error) { //nolint:contextcheck // the packer's is made from it
	if len(chunks) == 0 {
		return nil
	}
	c.changed = true
	before := c.rep.Rewritten
	var session [16]byte
	_, _ = rand.Read(session[:]) // never fails, see crypto/rand
	pk := newPacker(ctx, c.r, session, func(ondisk.ID) bool { return false })
	defer func() {
		pk.close()
		if errors.Is(err, ErrFull) {
			c.rep.Rewritten = before
			if derr := c.dropCopies(ctx, pk); derr != nil {
				err = derr
			}
		}
	}()
	pk.startFlusher(func(int64) {})
	var mu sync.Mutex
	var done int64
	g, gctx := errgroup.WithContext(pk.ctx)
	g.SetLimit(copiers)
	for _, run := range runs(chunks) {
		g.Go(func() error {
			bad, err := c.r.copyRun(gctx, pk, run)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, at := range run {
				if err := bad[at.Entry.ID]; err != nil {
					c.harm(at.Pack.Ref.Key(), err)
					c.unreadable[chunkCopy{at.Entry.ID, at.Pack.Ref}] = true
				} else {
					c.rep.Rewritten += int64(at.Entry.Sealed)
				}
			}
			done += int64(len(run))
			c.o.Progress("copy", done, int64(len(chunks)))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if cause := context.Cause(pk.ctx); cause != nil && errors.Is(err, context.Canceled) { //nolint:contextcheck // see above
			err = cause
		}
		return err
	}
	return pk.finish()
}

// dropCopies takes back what a session of the collector stored before the store
// was full. All of it is elsewhere, too; but what the index may list must be
// condemned, and is deleted later.
func (c *collector) dropCopies(ctx context.Context, pk *packer) error {
	var refs []ondisk.PackRef
	var keys []string
	for o, err := range c.r.store.List(ctx, fmt.Sprintf("%s%x-", ondisk.PackPrefix, pk.session)) {
		if err != nil {
			return err
		}
		if ref, ok := parsePackKey(o.Key); ok {
			refs, keys = append(refs, ref), append(keys, o.Key)
		}
	}
	if pk.told && len(refs) > 0 {
		return c.r.condemn(ctx, ondisk.Garbage, refs...)
	}
	return c.remove(ctx, keys)
}

// chunkCopy is a copy of a chunk.
type chunkCopy struct {
	id   ondisk.ID
	pack ondisk.PackRef
}

// readable returns the first of the copies that is not known to be damaged.
func (c *collector) readable(copies []index.Location) (index.Location, bool) {
	for _, at := range copies {
		if !c.unreadable[chunkCopy{at.Entry.ID, at.Pack.Ref}] {
			return at, true
		}
	}
	return index.Location{}, false
}

// runs sorts chunks by place and divides them into what is read at once. It
// reorders its argument.
func runs(chunks []index.Location) [][]index.Location {
	slices.SortFunc(chunks, func(a, b index.Location) int {
		return cmp.Or(comparePacks(a.Pack.Ref, b.Pack.Ref), cmp.Compare(a.Entry.Offset, b.Entry.Offset))
	})
	var out [][]index.Location
	for len(chunks) > 0 {
		n, first := 1, chunks[0]
		for ; n < len(chunks); n++ {
			last, next := chunks[n-1].Entry, chunks[n]
			if next.Pack.Ref != first.Pack.Ref ||
				int64(next.Entry.Offset)-int64(last.Offset)-int64(last.Sealed) > readGap ||
				int64(next.Entry.Offset)+int64(next.Entry.Sealed)-int64(first.Entry.Offset) > maxRead {
				break
			}
		}
		out = append(out, chunks[:n])
		chunks = chunks[n:]
	}
	return out
}

func comparePacks(a, b ondisk.PackRef) int {
	return cmp.Or(slices.Compare(a.Session[:], b.Session[:]), cmp.Compare(a.Seq, b.Seq))
}

// copyRun copies chunks that lie close to each other in one pack. It returns
// those that are damaged.
func (r *Repository) copyRun(ctx context.Context, pk *packer, run []index.Location) (map[ondisk.ID]error, error) {
	start := int64(run[0].Entry.Offset)
	last := run[len(run)-1].Entry
	data, err := r.store.GetRange(ctx, run[0].Pack.Ref.Key(), start, int64(last.Offset)+int64(last.Sealed)-start)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrShort) {
		return nil, err
	}
	failed := map[ondisk.ID]error{}
	if err != nil && len(run) > 1 { // a pack that lost its end still has the rest
		for i := range run {
			bad, err := r.copyRun(ctx, pk, run[i:i+1])
			if err != nil {
				return nil, err
			}
			maps.Copy(failed, bad)
		}
		return failed, nil
	}
	for _, at := range run {
		cerr := err
		if err == nil {
			sealed := data[int64(at.Entry.Offset)-start:][:at.Entry.Sealed]
			var body []byte
			if body, _, cerr = r.unseal(at, sealed); cerr == nil {
				if err := pk.reseal(at.Entry, body); err != nil {
					return nil, err
				}
				continue
			}
		}
		failed[at.Entry.ID] = &CorruptError{Object: at.Pack.Ref.Key(), Chunk: at.Entry.ID.String(), Err: cerr}
	}
	return failed, nil
}

// reseal stores a chunk whose body is known to be right, unless it did already.
func (p *packer) reseal(e pack.Entry, body []byte) error {
	if !p.claim(e.ID) {
		return nil
	}
	return p.addBody(e, body)
}
