// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/seal"
	"github.com/stillpoint-go/protect/internal/store"
)

// unjudged reports whether an error says that we lack the keys or the format,
// which is no damage.
func unjudged(err error) bool {
	return errors.Is(err, seal.ErrEpoch) || errors.Is(err, pack.ErrKeyReference) || errors.Is(err, ErrFormat)
}

// broken returns the packs that the index knows, that are not condemned, and in
// which something was found missing or damaged.
func (p *repairer) broken() map[ondisk.PackRef]bool {
	refs := map[ondisk.PackRef]bool{}
	for ref, info := range p.v.packs {
		if info.named && info.bad != nil && !p.v.condemned.Has(ref) {
			refs[ref] = true
		}
	}
	for at := range p.v.mu.bad {
		if info := p.v.packs[at.pack]; info != nil && info.named && !p.v.condemned.Has(at.pack) {
			refs[at.pack] = true
		}
	}
	return refs
}

// footerRead is how much of the end of a pack is read at first: enough for some
// thousand chunks.
const footerRead = 64 << 10

// readFooters returns the packs that the index does not know, as their footers
// describe them. That their session may still be at work does no harm: it will
// say the same.
func (p *repairer) readFooters(ctx context.Context) ([]index.Pack, error) {
	var mu sync.Mutex
	var packs []index.Pack
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, ref := range p.v.withoutIndex() {
		g.Go(func() error {
			known, err := p.readFooter(gctx, ref, p.v.packs[ref].size)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrCorrupt):
				return nil // gone, or it cannot be helped
			case err != nil:
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			packs = append(packs, known)
			return nil
		})
	}
	err := g.Wait()
	return packs, err
}

func (p *repairer) readFooter(ctx context.Context, ref ondisk.PackRef, size int64) (index.Pack, error) {
	known := index.Pack{PackInfo: index.PackInfo{Ref: ref, Size: uint32(min(size, ondisk.MaxPack))}} // bounded
	for need := int64(footerRead); need > 0; {
		n := min(need, size)
		tail, err := p.r.store.GetRange(ctx, ref.Key(), size-n, n)
		if errors.Is(err, store.ErrShort) {
			err = corrupt(ref.Key(), err)
		}
		if err != nil {
			return known, err
		}
		if known.Key, known.Entries, need, err = pack.ParseTail(p.r.keys, ref.Key(), tail, size); err != nil {
			return known, corrupt(ref.Key(), err)
		}
	}
	return known, nil
}

// rescue reads a damaged pack once more, copies the chunks that can be read and
// have no other copy, and reports whether it is to be condemned: it is not if
// the damage does not show any more, or if that cannot be judged.
func (p *repairer) rescue(ctx context.Context, pk *packer, ref ondisk.PackRef, known []index.Location, broken map[ondisk.PackRef]bool) (bool, error) {
	key := ref.Key()
	data, err := p.r.read(ctx, key, ondisk.MaxPack)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		data, err = nil, nil
	}
	if err != nil {
		return false, err
	}
	dk, entries, err := pack.Parse(p.r.keys, key, data)
	if unjudged(err) {
		return false, nil
	}
	bad := err != nil
	if err == nil {
		footer := &index.PackInfo{Ref: ref, Key: dk}
		for _, e := range entries {
			known = append(known, index.Location{Pack: footer, Entry: e})
		}
	}
	var good []index.Location
	for _, at := range known {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		_, err := p.openIn(data, at)
		if unjudged(err) {
			return false, nil
		}
		if err != nil {
			bad = true
			continue
		}
		found, err := p.elsewhere(ctx, at.Entry.ID, broken)
		if err != nil {
			return false, err
		}
		if !found {
			good = append(good, at)
		}
		bad = bad || at.Pack.Size > 0 && int(at.Pack.Size) != len(data)
	}
	if !bad {
		p.forgivePack(ref)
		return false, nil
	}
	return true, p.copyAll(pk, data, good)
}

// openIn opens a chunk of a pack that is in memory and returns its body.
func (p *repairer) openIn(data []byte, at index.Location) ([]byte, error) {
	end := int64(at.Entry.Offset) + int64(at.Entry.Sealed)
	if end > int64(len(data)) {
		return nil, errors.New("it is behind the end of the pack")
	}
	body, _, err := p.r.unseal(at, data[at.Entry.Offset:end])
	return body, err
}

// copyAll stores chunks again.
func (p *repairer) copyAll(pk *packer, data []byte, chunks []index.Location) error {
	seen := map[ondisk.ID]bool{}
	for _, at := range chunks {
		if seen[at.Entry.ID] {
			continue
		}
		seen[at.Entry.ID] = true
		p.rep.Rescued++
		p.fetched[at.Entry.ID] = nil
		if pk == nil {
			continue
		}
		body, err := p.openIn(data, at)
		if err != nil {
			return err // it was all right a moment ago
		}
		if err := pk.reseal(at.Entry, body); err != nil {
			return err
		}
	}
	return nil
}

// elsewhere reports whether there is a good copy of a chunk in a pack in which
// nothing was found to be wrong. What the verification has not read is read now:
// the other copy may soon be gone.
func (p *repairer) elsewhere(ctx context.Context, id ondisk.ID, broken map[ondisk.PackRef]bool) (bool, error) {
	copies, err := p.v.r.find(ctx, id)
	for _, l := range copies {
		ref := l.Pack.Ref
		info := p.v.packs[ref]
		if info == nil || !info.listed || broken[ref] || p.v.condemned.Has(ref) || p.v.lacks(l) != nil {
			continue
		}
		if info.whole {
			return true, nil
		}
		if _, err := p.v.r.readCopy(ctx, l, l.Entry.Kind); !errors.Is(err, ErrCorrupt) {
			return err == nil, err
		}
	}
	return false, err
}

// forgivePack takes back that something is wrong with a pack.
func (p *repairer) forgivePack(ref ondisk.PackRef) {
	p.v.mu.Lock()
	defer p.v.mu.Unlock()
	p.v.packs[ref].bad = nil
	for at := range p.v.mu.bad {
		if at.pack == ref {
			delete(p.v.mu.bad, at)
		}
	}
	p.v.discard(func(f *finding) bool { return f.object == ref.Key() })
}

// remaining returns the damage that is left: what was restored does not count,
// nor do packs that are condemned by now, unless something that is needed was in them.
func (p *repairer) remaining() []Damage {
	gone := map[string]bool{}
	for _, key := range slices.Concat(p.rep.Restored, p.rep.Condemned, p.rep.Removed) {
		gone[key] = true
	}
	var left []Damage
	for _, d := range p.v.damage() {
		if len(d.Affects) > 0 || !gone[d.Object] {
			left = append(left, d)
		}
	}
	return left
}
