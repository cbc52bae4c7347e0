// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// checkPoints walks all trees and extent maps. Subtrees that several points
// share are visited once.
func (v *verifier) checkPoints(ctx context.Context, points []*Point) error {
	broken := v.brokenPacks()
	w := &treeChecker{v: v, seen: map[ondisk.ID]bool{}, broken: broken}
	for _, p := range points {
		for _, vol := range p.Volumes {
			w.at = fmt.Sprintf("%s: %s", p.ID, vol.Name)
			if len(v.damage) > 0 {
				clear(w.seen) // to name everything that is affected
			}
			if err := w.volume(ctx, vol); err != nil {
				return err
			}
		}
	}
	return nil
}

// brokenPacks returns the damage of whole packs by their keys.
func (v *verifier) brokenPacks() map[string]*Damage {
	m := map[string]*Damage{}
	for _, d := range v.damage {
		if d.Chunk == "" && strings.HasPrefix(d.Object, ondisk.PackPrefix) {
			m[d.Object] = d
		}
	}
	return m
}

// treeChecker checks that a volume's metadata can be read and that all its
// slices are within chunks that are there.
type treeChecker struct {
	v      *verifier
	at     string
	seen   map[ondisk.ID]bool
	broken map[string]*Damage
}

func (w *treeChecker) volume(ctx context.Context, vol Volume) error {
	get := w.v.r.loader.node(ondisk.KindTree)
	err := tree.New(vol.root, get).Walk(ctx, w.enter, func(rec tree.Record) error {
		p, err := ondisk.KeyPath(rec.Key)
		if err != nil {
			return err
		}
		e, err := ondisk.DecodeEntry(rec.Value)
		if err != nil {
			return err
		}
		return w.file(ctx, p, e)
	})
	return w.blame(err, "")
}

func (w *treeChecker) enter(id ondisk.ID) bool {
	if w.seen[id] {
		return false
	}
	w.seen[id] = true
	return true
}

func (w *treeChecker) file(ctx context.Context, p string, e *ondisk.Entry) error {
	var size uint64
	for s, err := range w.v.r.extents(ctx, e) {
		if err != nil {
			return w.blame(err, p)
		}
		size += s.Len
		if err := w.slice(ctx, s); err != nil {
			if err := w.blame(err, p); err != nil {
				return err
			}
		}
	}
	if size != e.Size {
		return w.blame(corrupt("", errors.New("extent map does not match the size")), p)
	}
	return nil
}

func (w *treeChecker) slice(ctx context.Context, s ondisk.Slice) error {
	if s.ID.IsZero() {
		return nil
	}
	at, ok, err := w.place(ctx, s.ID)
	if err != nil {
		return err
	}
	key := ""
	if ok {
		key = at.Pack.Ref.Key()
	}
	d := w.v.bad[s.ID]
	if d == nil {
		d = w.broken[key]
	}
	switch {
	case d != nil:
		return &CorruptError{Object: d.Object, Chunk: d.Chunk, Err: errors.New(d.Reason)}
	case !ok:
		return &CorruptError{Chunk: s.ID.String(), Err: errors.New("chunk is not in the index")}
	case at.Entry.Kind != ondisk.KindData || uint64(s.Off)+s.Len > uint64(at.Entry.Plain):
		return &CorruptError{Object: key, Chunk: s.ID.String(), Err: errors.New("slice does not fit its chunk")}
	default:
		return nil
	}
}

// place returns where a chunk is: in a pack that is not broken, if there is one.
func (w *treeChecker) place(ctx context.Context, id ondisk.ID) (index.Location, bool, error) {
	broken := func(p ondisk.PackRef) bool { return w.broken[p.Key()] != nil }
	at, ok, err := w.v.r.usable(ctx, id, broken)
	if ok || err != nil {
		return at, ok, err
	}
	return w.v.r.usable(ctx, id, func(ondisk.PackRef) bool { return false })
}

// blame records that damage affects a path. Other errors are returned.
func (w *treeChecker) blame(err error, p string) error {
	if err = malformed(err); err == nil || !errors.Is(err, ErrCorrupt) {
		return err
	}
	w.v.found(err).affects(path.Join(w.at, p))
	return nil
}
