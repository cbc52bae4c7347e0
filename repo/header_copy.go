// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
	"github.com/stillpoint-go/protect/internal/store"
)

// Without the header nobody can open the repository, so that there is a copy of
// it, with the same bytes. The header makes it a repository: Init stores it
// first, and the copy is always of the one that has won. So there is no copy
// without a header, unless the header got lost, and what an Init leaves that dies
// before, or loses, cannot be taken for the copy of another one. Where it dies in
// between, the header says that there should be a copy, and the next Init, or
// Repair, stores it.
//
// Both count only if their MAC is right, and the header comes first: whoever
// damages, deletes or replaces one of them without a key gains nothing by it.

func headerKeys() []string { return []string{ondisk.HeaderKey, ondisk.HeaderCopyKey} }

// putHeaders makes it a repository.
func (r *Repository) putHeaders(ctx context.Context) error {
	h, raw, err := r.newHeader()
	if err != nil {
		return err
	}
	r.useHeader(h, raw)
	for _, key := range headerKeys() {
		if err := r.store.Put(ctx, key, raw); err != nil {
			return err
		}
	}
	return nil
}

// useHeader makes a header, or its copy, that of the repository.
func (r *Repository) useHeader(h *header, raw []byte) {
	r.header, r.caps, r.readOnly = raw, store.Capabilities(h.Store), h.writable()
	r.copied = slices.Contains(h.Compatible, headerCopy)
}

// finishInit stores the copy of a header that is there, if the Init that stored
// the header did not come to that. It takes no key: whoever reads the copy
// authenticates it.
func (r *Repository) finishInit(ctx context.Context, raw []byte) {
	h, err := parseHeader(ondisk.HeaderKey, raw)
	if err != nil || !slices.Contains(h.Compatible, headerCopy) {
		return
	}
	if err := r.store.Put(ctx, ondisk.HeaderCopyKey, raw); err != nil && !errors.Is(err, fs.ErrExist) {
		r.log.Warn("the header of the repository has no copy", "error", err)
	}
}

// openHeaders opens the repository by its header, or else by the copy of that.
// Only what may be damage is a reason to look at the copy: a header that asks for
// another release is obeyed, whatever the copy says. With a wrong key nothing is
// tried twice, since the copy says the same.
func (r *Repository) openHeaders(ctx context.Context, key Key) error {
	raw, err := r.openBy(ctx, ondisk.HeaderKey, nil, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrKey) {
		return err
	}
	_, cerr := r.openBy(ctx, ondisk.HeaderCopyKey, raw, key)
	missing, noCopy := errors.Is(err, fs.ErrNotExist), errors.Is(cerr, fs.ErrNotExist)
	switch {
	case cerr == nil:
		r.log.Warn("the header of the repository is damaged or missing: opened by its copy; Repair restores it", "error", err)
		return nil
	case missing && noCopy: // what the store says of it helps nobody
		return fmt.Errorf("the bucket holds no repository: it has no object %s: %w", ondisk.HeaderKey, fs.ErrNotExist)
	case missing: // which is damage only if the copy says that there was one
		return fmt.Errorf("the object %s is missing, and by its copy: %w", ondisk.HeaderKey, cerr)
	case noCopy || errors.Is(err, ErrKey) || errors.Is(cerr, errSameHeader):
		return err
	default:
		return errors.Join(err, cerr)
	}
}

var (
	errSameHeader = errors.New("the copy says the same as the header")
	errNoHeader   = fmt.Errorf("the object is missing: %w", fs.ErrNotExist)
)

// openBy opens the repository by the header, or the copy, under a key, unless
// that is the text that was tried before. It returns what it has read.
func (r *Repository) openBy(ctx context.Context, at string, before []byte, key Key) ([]byte, error) {
	raw, err := r.read(ctx, at, ondisk.MaxHeader)
	if err != nil {
		return nil, err
	}
	if before != nil && bytes.Equal(raw, before) {
		return raw, errSameHeader
	}
	h, err := parseHeader(at, raw)
	if err != nil {
		return raw, err
	}
	r.id = h.id
	r.useHeader(h, raw)
	if err := r.unlock(ctx, key); err != nil {
		return raw, err
	}
	if !h.authentic(r.keys) {
		return raw, corrupt(at, seal.ErrAuth)
	}
	return raw, nil
}

// authenticHeader returns the header or the copy, of whatever format and with
// whatever features, if somebody with a key has made it.
func (r *Repository) authenticHeader(ctx context.Context, key string) ([]byte, error) {
	raw, err := r.read(ctx, key, ondisk.MaxHeader)
	if err != nil {
		return nil, err
	}
	h, err := splitHeader(key, raw)
	if err == nil && !h.authentic(r.keys) {
		err = corrupt(key, seal.ErrAuth)
	}
	return raw, err
}

// checkHeaders returns what header and copy must be, and the damage of that which
// is something else or missing. What the header says counts, then what the copy
// says, and in the end that by which the repository was opened.
func (r *Repository) checkHeaders(ctx context.Context) (want []byte, damage map[string]error, err error) {
	damage = map[string]error{}
	for _, key := range headerKeys() {
		raw, err := r.authenticHeader(ctx, key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			damage[key] = corrupt(key, errNoHeader)
		case errors.Is(err, ErrCorrupt):
			damage[key] = err
		case err != nil:
			return nil, nil, err
		case want == nil:
			want = raw
		case !bytes.Equal(raw, want):
			damage[key] = corrupt(key, errors.New("it differs from the header"))
		}
	}
	if want == nil {
		want = r.header
	}
	return want, damage, nil
}

// restoreHeaders stores again what the verification found damaged or missing of
// header and copy, one after the other, and only if it still is: a read that
// went wrong must not delete anything. Whoever else repairs at the same time does
// the same, and at each moment one of both is there, if one was.
func (p *repairer) restoreHeaders(ctx context.Context) error {
	for _, key := range headerKeys() {
		if p.v.headers[key] == nil {
			continue
		}
		want, damage, err := p.r.checkHeaders(ctx)
		if err != nil {
			return err
		}
		if damage[key] == nil {
			continue
		}
		p.rep.Restored = append(p.rep.Restored, key)
		if p.o.DryRun {
			continue
		}
		if !isMissing(damage[key]) {
			if err := p.r.store.Delete(ctx, key); err != nil {
				return err
			}
		}
		if err := p.r.store.Put(ctx, key, want); err != nil {
			return err
		}
	}
	return nil
}
